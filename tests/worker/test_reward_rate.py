"""Reward per 1,000 env steps against a sum over single steps."""

import json

import numpy as np
import pytest

from lzero.worker.reward_rate import UNIT, RewardRate


def test_the_rate_is_that_of_the_last_rounds_that_make_up_a_thousand_steps():
    rng = np.random.default_rng(0)
    rate = RewardRate(("Krull", "Pong"))
    rounds: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(40):
        rounds.append((rng.normal(size=2), rng.integers(0, 400, size=2)))
        rate.add(*rounds[-1])
        for task, game in enumerate(rate.games):
            earned, taken = 0.0, 0
            for reward, steps in reversed(rounds):
                earned, taken = earned + reward[task], taken + steps[task]
                if taken >= UNIT:
                    break
            if taken:
                assert rate.by_game()[game] == pytest.approx(UNIT * earned / taken)
            else:
                assert game not in rate.by_game()


def test_a_game_without_a_step_has_no_rate():
    rate = RewardRate(("Krull", "Pong"))
    rate.add(np.array([6.0, 0.0]), np.array([20, 0]))
    assert rate.by_game() == {"Krull": 300.0}


def test_a_checkpoint_goes_on_with_the_same_rounds():
    rng = np.random.default_rng(1)
    rate, restored = RewardRate(("Krull", "Pong")), RewardRate(("Krull", "Pong"))
    for _ in range(9):
        rate.add(rng.normal(size=2), np.array([160, 320]))
    restored.load(json.loads(json.dumps(rate.state())))
    for either in (rate, restored):
        either.add(np.array([1.0, 2.0]), np.array([160, 320]))
    assert restored.by_game() == rate.by_game() and restored.state() == rate.state()
