"""The schema of PPO's experiments: turns of games, and what is refused."""

import pytest
from pydantic import ValidationError

from lzero.config_ppo import PPOExperiment

GAMES = ("Pong", "Boxing", "Alien")


def crl(**changes) -> PPOExperiment:
    data = {
        "env": {"games": GAMES, "num_envs": 10},
        "schedule": {"setting": "crl", "order": ("Alien", "Pong", "Boxing"), "cycles": 2},
        "policy": {"minibatches": 4},
        "train": {"max_env_steps": 4_000, "collect_steps": 10},
    }
    return PPOExperiment.model_validate(data | changes)


def test_games_come_one_after_another():
    config = crl()
    assert (config.clock_steps, config.turn_steps) == (12_000, 2_000)
    turns = [config.game_at(step) for step in (0, 1_999, 2_000, 4_000, 6_000, 11_999, 12_000)]
    assert [GAMES[turn] for turn in turns] == [
        *("Alien", "Alien", "Pong", "Boxing", "Alien", "Boxing", "Boxing")
    ]


def test_together_there_are_no_turns():
    config = crl(schedule={})
    assert (config.clock_steps, config.game_at(3)) == (4_000, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"setting": "crl", "order": ("Pong",)}}, "schedule.order"),
        ({"schedule": {"setting": "crl", "cycles": 100}}, "schedule.cycles=100 leaves a game 40"),
        ({"policy": {"minibatches": 8}}, "does not divide the 100 steps of a round.*try 10"),
        ({"policy": {"minibatches": 101}}, "does not divide the 100 steps of a round.*try 100"),
        (
            {"env": {"games": GAMES, "overrides": {"Pong": {"num_envs": 3}}}},
            "num_envs differ between games",
        ),
        (
            {"env": {"games": GAMES, "overrides": {"Pong": {"batch_size": 3}}}},
            "use policy.minibatches",
        ),
        ({"train": {"random_steps": 5}}, "train.random_steps=5"),
        ({"policy": {"lerning_rate": 1}}, "unknown key 'lerning_rate'"),
        ({"model": {"architecture": "bigg"}}, "'baseline', 'middle', 'final', 'all' or 'big'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(changes, message):
    with pytest.raises(ValidationError, match=message):
        crl(**changes)
