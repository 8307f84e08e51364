"""Env steps are counted per game, also where games have different numbers of environments."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from lzero import tags
from lzero.checkpoint import list_checkpoints, load_state
from lzero.config import ExperimentConfig
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.metrics import log_collected
from lzero.entry.run import Run
from lzero.logging import RateMeter, read_metrics
from lzero.policy import UniZeroMTPolicy
from lzero.report.panels import random_reward_rate
from lzero.report.run_data import read_run
from lzero.report.study import build_study
from tests.entry.run_cases import RATIO, STEPS, settings, tensorboard_curves
from tests.ranks import run_ranks

GAMES = ("Catch", "MirroredCatch")
NUMBERS = {
    "more": {"Catch": 8},
    "fewer": {"Catch": 1},
    "none has the common number": {"Catch": 8, "MirroredCatch": 3},
    "all the same": {},
    "all the same, but not the common number": {"Catch": 3, "MirroredCatch": 3},
}


def catch(
    directory: Path, numbers: dict[str, int], changes: dict[str, Any] | None = None
) -> ExperimentConfig:
    """A run of seconds, two environments per game but for ``numbers``."""
    env = {
        "domain": "zoo.catch.domain:CATCH",
        "games": GAMES,
        "num_envs": 2,
        "num_eval_envs": 2,
        "max_episode_steps": 15,
        "overrides": {game: {"num_envs": number} for game, number in numbers.items()},
    }
    encoder = {"kind": "conv", "widths": (4,)}
    own = {"env": env, "model.encoder": encoder, "policy.replay": {"capacity": 160}}
    config = settings(directory, own | {"train.video": False} | (changes or {}))
    return ExperimentConfig.model_validate(config)


def collected(directory: Path, numbers: dict[str, int]) -> dict[str, Any]:
    """What a rank counts and what it has taken, after three rounds."""
    config = catch(directory, numbers)
    with Run(config, seed=0, max_env_steps=STEPS, resume=True) as run:
        for _ in range(3):
            log_collected(run, run.collect())
        taken = np.zeros(len(GAMES), int)
        for task, envs in zip(run.share.task_ids, run.share.num_envs, strict=True):
            taken[task] += run.replay.head * envs
        return {
            "env_steps": run.env_steps,
            "total": run.of_all_games(run.env_steps),
            "taken": taken,
        }


def logged_steps(directory: Path) -> dict[str, int]:
    line = read_metrics(directory / "tiny" / "metrics.jsonl")[-1]
    return line.get("game_env_steps") or dict.fromkeys(GAMES, line["env_step"])


def test_own_env_steps_follow_those_of_the_game_with_the_fewest_environments(tmp_path):
    for numbers, taken in (
        ({"Catch": 8}, {"Catch": 28, "MirroredCatch": 7}),
        ({"Catch": 8, "MirroredCatch": 4}, {"Catch": 14, "MirroredCatch": 7}),
        ({"Catch": 1}, {"Catch": 7, "MirroredCatch": 14}),
        ({}, {"Catch": 7, "MirroredCatch": 7}),
    ):
        env = catch(tmp_path, numbers).env
        assert env.game_env_steps(7) == taken
        assert env.fewest_envs() == min(numbers.get(game, 2) for game in GAMES)


ALONE = [(name, 1) for name in NUMBERS]


@pytest.mark.parametrize(("name", "world_size"), [*ALONE, ("more", 3), ("all the same", 3)])
def test_what_is_logged_was_taken(tmp_path, name, world_size):
    """Two of three ranks share a game."""
    work = partial(collected, tmp_path, NUMBERS[name])
    ranks = [work()] if world_size == 1 else run_ranks(work, world_size, tmp_path)
    taken = dict(zip(GAMES, sum(rank["taken"] for rank in ranks).tolist(), strict=True))
    assert logged_steps(tmp_path) == taken
    for rank in ranks:
        assert rank["env_steps"] == min(taken.values())
        assert rank["total"] == sum(taken.values())
    differ = len(set(taken.values())) > 1
    for line in read_metrics(tmp_path / "tiny" / "metrics.jsonl"):
        assert ("game_env_steps" in line) == differ


def test_a_whole_run_is_counted_per_game(tmp_path, monkeypatch, caplog):
    """Limit and replay ratio by the game with the fewest environments, curves and rates by what was played."""
    rated = []
    pop = RateMeter.pop
    monkeypatch.setattr(
        RateMeter, "pop", lambda self, *counts: rated.append(counts) or pop(self, *counts)
    )
    config = catch(tmp_path, {"Catch": 8}, {"train.random_steps": 40})
    with caplog.at_level(logging.INFO, "lzero.logging"):
        result = train_unizero_multitask_segment_ddp(config)
    run_dir = tmp_path / "tiny"
    own = {"Catch": 4 * STEPS, "MirroredCatch": STEPS}
    state = load_state(list_checkpoints(run_dir / "checkpoints")[-1])
    assert (result.env_steps, state["env_steps"]) == (STEPS, STEPS)
    assert result.train_iter == int(RATIO * (STEPS - 20))  # learning begins in the second round
    assert rated[-1] == (5 * STEPS, result.train_iter)
    assert f"run: {5 * STEPS}/{5 * STEPS} env steps" in caplog.text

    run = read_run(run_dir)
    assert run.env_steps == STEPS and run.own_steps("Catch", 40) == 160
    shown = tensorboard_curves(run_dir)
    for tag in run.tags(""):
        end = own.get(tags.game_of(tag, GAMES), STEPS)
        rounds = np.arange(1, 7) * end // 6
        assert set(run.series(tag).env_step) <= set(rounds), tag
        if tag in shown:
            assert [step for step, _ in shown[tag]] == run.scalars[tag].env_step.tolist(), tag
    study = build_study([run_dir])
    assert {final.game: final.env_steps for final in study.finals} == {
        game: (steps,) for game, steps in own.items()
    }
    for final in study.finals:
        assert final.episodes == config.train.eval_episodes, "scores stand where the returns do"
    for curve in study.curves:
        if curve.metric in (tags.EVAL_RETURN, tags.COLLECT_REWARD):
            assert curve.env_step[-1] == own[curve.game]
    for game in GAMES:
        rate = run.series(tags.of_game(tags.COLLECT_REWARD, game))
        mean = float(rate.value[:2].mean())  # two rounds were played at random
        assert random_reward_rate(study, (run.domain, game)) == {"random": pytest.approx(mean)}


def test_a_killed_run_shows_nothing_behind_its_checkpoint(tmp_path, monkeypatch):
    """As soon as it is started again, and whatever the killed process left unfinished."""
    config = catch(tmp_path, {"Catch": 8})
    learn = UniZeroMTPolicy.learn

    def failing_learn(policy, windows):
        if policy.train_iter == 15:
            raise KeyboardInterrupt
        return learn(policy, windows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UniZeroMTPolicy, "learn", failing_learn)
        train_unizero_multitask_segment_ddp(config)
    [checkpoint] = list_checkpoints(tmp_path / "tiny" / "checkpoints")
    last = load_state(checkpoint)["env_steps"]
    assert last == 40
    [file] = (tmp_path / "tiny" / "tb").iterdir()
    with file.open("ab") as events:
        events.write(b"\x10\0\0\0\0\0\0\0torn")

    def steps_by_tag() -> dict[str, int]:
        found: dict[str, int] = {}
        for file in (tmp_path / "tiny" / "tb").iterdir():
            for event in LegacyEventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    tag = tags.plain(value.tag)
                    found[tag] = max(event.step, found.get(tag, 0))
        return found

    before = steps_by_tag()
    assert before["learn/loss"] == 60 and before["collect_reward/Catch"] == 240
    with Run(config, seed=0, max_env_steps=STEPS, resume=True):
        pass
    after = steps_by_tag()
    assert after["learn/loss"] == 40 and after["collect_reward/Catch"] == 160
    for tag, step in after.items():
        assert step <= (4 * last if tags.game_of(tag, GAMES) == "Catch" else last), tag
    lines = (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["env_step"] for line in lines) == last
