"""Environments of several tasks, domains of the zoo, workers, logs and reports."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from lzero.config import EnvConfig
from lzero.environment import here, read_attempts
from lzero.envs import MultiTaskVectorEnv, TaskEnv, task_seed
from lzero.envs.domain import check_trusted, load_domain
from lzero.logging import RunLogger, read_metrics
from lzero.report import load_runs
from lzero.report.aggregates import difference_interval
from lzero.report.command import main as report
from lzero.report.command import write_report
from lzero.report.run_data import (
    Group,
    RunDataError,
    Series,
    common_name,
    group_runs,
    read_runs,
)
from lzero.report.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    final_score,
    hierarchical_bootstrap_mean,
    interpolate,
    smooth,
)
from lzero.report.student import (
    holm,
    noncentrality,
    paired_difference,
    student_interval,
    unpaired_difference,
)
from lzero.report.study import Study, build_study
from lzero.worker.collector import Collected
from lzero.worker.context import EnvContext
from lzero.worker.evaluator import evaluate
from lzero.worker.health import HealthMonitor
from lzero.worker.random_policy import measure_random_policy
from lzero.worker.return_scale import ReturnScale
from lzero.worker.reward_rate import RewardRate
from lzero.worker.score_table import ScoreTable, aggregate
from tests.bad_calls.bad import Bad
from tests.report.synthetic_runs import write_run
from zoo.atari.envs import (
    NativeScreenTwin,
    make_atari_multitask_env,
    make_atari_vector_env,
    minimal_actions,
    rom_name,
)
from zoo.atari.scores import human_normalised
from zoo.catch.domain import CATCH
from zoo.catch.envs import CatchVectorEnv
from zoo.classic_control.domain import CLASSIC_CONTROL
from zoo.classic_control.envs import make_classic_control_vector_env
from zoo.gym.domain import GYM
from zoo.gym.envs import View, common_view, make_gym_vector_env
from zoo.gym.games import look_at
from zoo.gym.registry import spec_of
from zoo.minatar.envs import MinAtarVectorEnv

NAN = float("nan")
SERIES = Series(np.arange(5.0), np.arange(5.0))


def task(task_id: Any = 0, envs: int = 2, **settings: Any) -> TaskEnv:
    made = {"name": "Catch", "layout": "hwc", "reseed_after": 0} | settings
    return TaskEnv(CatchVectorEnv(envs), task_id, **made)


def env(**settings: Any) -> MultiTaskVectorEnv:
    return MultiTaskVectorEnv([task()], **settings)


def stepped(actions: Any) -> None:
    made = env()
    made.reset(0)
    made.step(actions)


def closed() -> None:
    made = env()
    made.close()
    made.reset(0)


class Still:
    """Plays without looking."""

    def act(self, observation):
        return self

    def forget(self, ended):
        pass

    action = np.ones(2, np.int64)


def played(episodes: Any = 2, seed: Any = 0, **more: Any) -> object:
    return evaluate(env(), Still(), episodes, seed, **more)


def domain(
    made: Any = CATCH, games: Any = ("Catch",), tasks: Any = (0,), envs: Any = (2,)
) -> object:
    config = EnvConfig(domain="zoo.catch.domain:CATCH", games=("Catch",))
    return made.make(config, games, tasks, envs, env_offsets=(0,), training=True, num_threads=1)


def runs(folder: Path) -> list[Path]:
    """Two small runs."""
    return [write_run(folder / f"r_s{seed}", seed=seed, analyses=2) for seed in (0, 1)]


def group(folder: Path) -> Group:
    [found] = group_runs(read_runs(runs(folder)))
    return found


def endless(folder: Path) -> Path:
    """A pipe that nobody writes to."""
    os.mkfifo(folder / "metrics.jsonl")
    return folder / "metrics.jsonl"


def torn(folder: Path) -> Path:
    (folder / "metrics.jsonl").write_text("{\n{}\n")
    return folder / "metrics.jsonl"


def report_into_a_file(folder: Path) -> None:
    (folder / "out").touch()
    report([*map(str, runs(folder)), "--out", str(folder / "out")])


def written_into_a_file(folder: Path) -> None:
    (folder / "out").touch()
    write_report(Study((), (), (), {}, ()), folder / "out")


def log(folder: Path) -> RunLogger:
    return RunLogger(folder, is_main=True)


def context(steps: Any = 2, envs: Any = 2) -> EnvContext:
    import torch

    return EnvContext(envs, steps, 4, torch.device("cpu"))


CASES = {
    "no tasks": Bad(lambda: MultiTaskVectorEnv([]), "tasks"),
    "tasks that are none": Bad(
        lambda: MultiTaskVectorEnv([CatchVectorEnv(1)]), r"tasks\[0\]=", TypeError
    ),
    "a task twice": Bad(lambda: MultiTaskVectorEnv([task(), task()]), "task_id 0"),
    "a negative task": Bad(lambda: MultiTaskVectorEnv([task(-1)]), "task_id=-1"),
    "a negative offset": Bad(lambda: MultiTaskVectorEnv([task(env_offset=-1)]), "env_offset=-1"),
    "a negative time to reseed": Bad(
        lambda: MultiTaskVectorEnv([task(reseed_after=-1)]), "reseed_after=-1"
    ),
    "an unknown layout": Bad(lambda: MultiTaskVectorEnv([task(layout="whc")]), "layout 'whc'"),
    "no legal action": Bad(lambda: MultiTaskVectorEnv([task(legal_actions=())]), "legal_actions"),
    "too few actions": Bad(lambda: env(num_actions=2), "num_actions=2"),
    "half an action": Bad(lambda: env(num_actions=3.5), "num_actions=3.5", TypeError),
    "a shape of nothing": Bad(lambda: env(observation_shape=()), r"observation_shape=\(\)"),
    "a shape of vectors": Bad(lambda: env(observation_shape=(4,)), r"observation_shape"),
    "actions in a list": Bad(lambda: stepped([1, 1]), r"actions=\[1, 1\]", TypeError),
    "actions too few": Bad(lambda: stepped(np.ones(1, np.int64)), r"actions.*\(1,\)"),
    "actions in floats": Bad(lambda: stepped(np.ones(2)), "actions.*float64"),
    "an illegal action": Bad(lambda: stepped(np.array([1, 3])), r"actions\[1\]=3"),
    "reset with a negative seed": Bad(lambda: env().reset(-1), "seed=-1"),
    "reset with half a seed": Bad(lambda: env().reset(0.5), "seed=0.5", TypeError),
    "reset without seed": Bad(lambda: env().reset(None), "seed=None", TypeError),
    "reset of a closed env": Bad(closed, "closed"),
    "seed of a negative task": Bad(lambda: task_seed(0, -1), "task_id=-1"),
    "episodes of no step": Bad(lambda: env().limit_episodes({0: 0}), r"steps\[0\]=0"),
    "episodes of no number of steps": Bad(
        lambda: env().limit_episodes({0: NAN}), r"steps\[0\]=nan", TypeError
    ),
    "episodes of another task": Bad(lambda: env().limit_episodes({1: 5}), "steps.*lacks task 0"),
    "a state of nothing": Bad(lambda: env().restore({}), "state.*first_seed"),
    "a domain of no form": Bad(lambda: load_domain("zoo.catch"), "env.domain='zoo.catch'"),
    "a domain of a number": Bad(lambda: load_domain(3), "path=3", TypeError),
    "a stranger's domain": Bad(lambda: check_trusted("their.code:X"), "env.domain='their.code:X'"),
    "a stranger's environment": Bad(
        lambda: check_trusted("gym", (), ("their:Env-v0",)), "'their:Env-v0'.*--allow-domain their"
    ),
    "exceptions of another game": Bad(
        lambda: EnvConfig(games=("Pong",), overrides={"Pongg": {}}), "env.overrides: 'Pongg'"
    ),
    "random play of no episode": Bad(
        lambda: measure_random_policy(env(), 0, episodes=0), "episodes=0"
    ),
    "random play of no step": Bad(
        lambda: measure_random_policy(env(), 0, max_env_steps=0), "max_env_steps=0"
    ),
    "random play by half a seed": Bad(
        lambda: measure_random_policy(env(), 0.5), "seed=0.5", TypeError
    ),
    "gym: an unknown id": Bad(lambda: look_at("CartPol-v1"), "'CartPol-v1'.*'CartPole-v1'"),
    "gym: no id": Bad(lambda: look_at(3), "game=3", TypeError),
    "gym: an id to register": Bad(lambda: spec_of("not_there:E-v0"), "module of game 'not_there"),
    "gym: numbers too few": Bad(lambda: domain(GYM, ("CartPole-v1",), envs=()), "num_envs.*0"),
    "gym: vectors that are stacked": Bad(
        lambda: common_view([look_at("CartPole-v1")], 64, frame_stack=2), "env.frame_stack=2"
    ),
    "gym: no environment": Bad(
        lambda: make_gym_vector_env(look_at("CartPole-v1"), 0, View()), "num_envs=0"
    ),
    "Catch: an unknown game": Bad(lambda: domain(games=("Cash",)), "game.*'Cash'"),
    "Catch: an unknown task": Bad(lambda: domain(tasks=(3,)), "task_ids.*3"),
    "Catch: numbers too few": Bad(lambda: domain(envs=()), "num_envs.*0"),
    "Catch: no environment": Bad(lambda: CatchVectorEnv(0), "num_envs=0"),
    "Catch: half an environment": Bad(lambda: CatchVectorEnv(1.5), "num_envs=1.5", TypeError),
    "Catch: an unknown action": Bad(lambda: CatchVectorEnv(2).step(np.array([0, 9])), "actions.*9"),
    "Catch: an action too few": Bad(
        lambda: CatchVectorEnv(2).step(np.array([0])), r"actions.*\(1,\)"
    ),
    "MinAtar: an unknown game": Bad(lambda: MinAtarVectorEnv("Pong", 1), "'Pong'"),
    "MinAtar: no environment": Bad(lambda: MinAtarVectorEnv("Breakout", 0), "num_envs=0"),
    "MinAtar: half an environment": Bad(
        lambda: MinAtarVectorEnv("Breakout", 1.5), "num_envs=1.5", TypeError
    ),
    "MinAtar: sticky beyond one": Bad(
        lambda: MinAtarVectorEnv("Breakout", 1, sticky=2.0), "sticky=2.0"
    ),
    "MinAtar: an unknown action": Bad(
        lambda: MinAtarVectorEnv("Breakout", 1).step(np.array([9])), "actions.*9"
    ),
    "Atari: an unknown game": Bad(lambda: make_atari_vector_env("Pongg", 1), "'Pongg'.*'Pong'"),
    "Atari: no environment": Bad(lambda: make_atari_vector_env("Pong", 0), "num_envs=0"),
    "Atari: half an environment": Bad(
        lambda: make_atari_vector_env("Pong", 1.5), "num_envs=1.5", TypeError
    ),
    "Atari: sticky beyond one": Bad(
        lambda: make_atari_vector_env("Pong", 1, sticky=2.0), "sticky=2.0"
    ),
    "Atari: no pixels": Bad(lambda: make_atari_vector_env("Pong", 1, image_size=0), "image_size=0"),
    "Atari: games in one text": Bad(
        lambda: make_atari_multitask_env("Pong", [0], 1, training=True), "games='Pong'", TypeError
    ),
    "Atari: tasks too few": Bad(
        lambda: make_atari_multitask_env(["Pong"], [], 1, training=True), "task_ids: 0 values"
    ),
    "Atari: no game": Bad(
        lambda: make_atari_multitask_env([], [], 1, training=True), "games|tasks"
    ),
    "Atari: name of a number": Bad(lambda: rom_name(3), "game=3", TypeError),
    "Atari: actions of no game": Bad(lambda: minimal_actions("Nothing"), "'Nothing'"),
    "Atari: an unknown action on the screen": Bad(
        lambda: NativeScreenTwin("Pong").step(18), "action=18"
    ),
    "Atari: score of no game": Bad(lambda: human_normalised("Nothing", 1.0), "game='Nothing'"),
    "control: an unknown problem": Bad(
        lambda: make_classic_control_vector_env("Pole", 1), "name='Pole'"
    ),
    "control: no environment": Bad(
        lambda: make_classic_control_vector_env("CartPole-v1", 0), "num_envs=0"
    ),
    "control: no step": Bad(
        lambda: make_classic_control_vector_env("Acrobot-v1", 1, max_episode_steps=0),
        "max_episode_steps=0",
    ),
    "control: an unknown game of the domain": Bad(
        lambda: domain(CLASSIC_CONTROL, games=("Pole",)), "'Pole'"
    ),
    "play no episode": Bad(lambda: played(0), "num_episodes=0"),
    "play less than no episode": Bad(lambda: played(-2), "num_episodes=-2"),
    "play half an episode": Bad(lambda: played(1.5), "num_episodes=1.5", TypeError),
    "play with a negative seed": Bad(lambda: played(seed=-1), "seed=-1"),
    "film an unknown task": Bad(lambda: played(films={4: None}), r"films.*4"),
    "aggregate nothing": Bad(lambda: aggregate({}), "scores={}"),
    "aggregate no number": Bad(lambda: aggregate({"Pong": NAN}), "scores of Pong"),
    "table of no episodes": Bad(
        lambda: ScoreTable.build({"Pong": np.empty(0)}, lambda game, score: score), "'Pong'"
    ),
    "table of no game": Bad(lambda: ScoreTable.build({}, lambda game, score: score), "scores={}"),
    "rate of other games": Bad(
        lambda: RewardRate(["a", "b"]).add(np.ones(1), np.ones(2)), r"reward.*\(1,\)"
    ),
    "rate over no number of steps": Bad(
        lambda: RewardRate(["a"]).add(np.ones(1), np.array([NAN])), r"steps\[0\]=nan"
    ),
    "rate of names in one text": Bad(lambda: RewardRate("ab"), "games='ab'", TypeError),
    "rate of another state": Bad(lambda: RewardRate(["a"]).load([]), "state.*0"),
    "scale of unknown tasks": Bad(lambda: ReturnScale(np.array([0, 2]), 2, 0.9), "task_id.*2"),
    "scale that grows": Bad(lambda: ReturnScale(np.array([0]), 1, 1.5), "discount=1.5"),
    "scale of other totals": Bad(
        lambda: ReturnScale(np.array([0]), 1, 0.9).set_totals([[1.0, 1.0]]), "totals"
    ),
    "health of unknown tasks": Bad(lambda: HealthMonitor(np.array([0, 2]), 2, 0.9), "task_id.*2"),
    "sums of unknown tasks": Bad(
        lambda: Collected([], np.ones(2), np.ones(2, np.int64)).sums(np.array([0, 2]), 2),
        "task_id.*2",
    ),
    "context of no step": Bad(lambda: context(steps=0), "history_steps=0"),
    "context of no environment": Bad(lambda: context(envs=0), "num_envs=0"),
    "interval of one value": Bad(lambda: bootstrap_mean(np.ones(1)), "1 value"),
    "interval of a list": Bad(lambda: bootstrap_mean([1.0, 2.0]), r"values=\[1.0", TypeError),
    "interval of no numbers": Bad(lambda: bootstrap_mean(np.array([1.0, NAN])), r"values\[1\]=nan"),
    "difference of one value": Bad(
        lambda: bootstrap_difference(np.ones(1), np.ones(3)), "1 and 3 value"
    ),
    "difference of no numbers": Bad(
        lambda: bootstrap_difference(np.ones(2), np.array([1.0, NAN])), r"second\[1\]=nan"
    ),
    "episodes of no seed": Bad(lambda: hierarchical_bootstrap_mean([]), r"episodes per seed: \[\]"),
    "episodes of no numbers": Bad(
        lambda: hierarchical_bootstrap_mean([np.array([1.0, NAN])]), r"scores\[0\]\[1\]=nan"
    ),
    "interpolate nothing": Bad(lambda: interpolate([]), r"series=\[\]"),
    "interpolate an empty series": Bad(
        lambda: interpolate([Series(np.empty(0), np.empty(0))]), r"series\[0\]"
    ),
    "smooth by no values": Bad(lambda: smooth([SERIES], 0), "values_per_bin=0"),
    "final score of an unknown game": Bad(
        lambda folder: final_score(group(folder), "Pole"), "game='Pole'"
    ),
    "common name of nothing": Bad(lambda: common_name([]), r"names=\[\]"),
    "report on nothing": Bad(lambda: build_study([]), "no run named", RunDataError),
    "report on a place that is not there": Bad(
        lambda folder: build_study([folder / "none"]), "none does not exist", RunDataError
    ),
    "report on an empty folder": Bad(
        lambda folder: build_study([folder]), "is no run", RunDataError
    ),
    "report on one text": Bad(lambda folder: build_study(str(folder)), "paths='", TypeError),
    "report with a label too few": Bad(
        lambda folder: build_study(runs(folder), labels=["a", "b"]),
        r"labels=\['a', 'b'\]",
        RunDataError,
    ),
    "report that ignores nothing known": Bad(
        lambda folder: build_study(runs(folder), ignore=["divice"]), "'divice'", RunDataError
    ),
    "report on a run twice": Bad(
        lambda folder: build_study([*runs(folder), folder / "r_s0"]), "more than once", RunDataError
    ),
    "report with a margin of nothing": Bad(
        lambda: build_study([Path("r")], margin=0), "margin=0.*above 0 up to 1", RunDataError
    ),
    "report with a margin in percent": Bad(
        lambda: build_study([Path("r")], margin=5.0), "margin=5.0", RunDataError
    ),
    "report with a margin in words": Bad(
        lambda: build_study([Path("r")], margin="small"), "margin='small'", TypeError
    ),
    "compare seeds that are not paired": Bad(
        lambda: paired_difference(np.ones(3), np.ones(4)), r"second.*\(4,\).*\(3,\)"
    ),
    "compare seeds in a list": Bad(
        lambda: paired_difference([1.0, 2.0], np.ones(2)), r"first=\[1.0, 2.0\]", TypeError
    ),
    "compare seeds without a number": Bad(
        lambda: unpaired_difference(np.array([1.0, NAN]), np.ones(3)), r"first\[1\]=nan"
    ),
    "compare tables": Bad(
        lambda: unpaired_difference(np.ones(3), np.ones((3, 2))), r"second.*\(3, 2\)"
    ),
    "a verdict by no margin": Bad(
        lambda: paired_difference(np.ones(3), np.ones(3)).verdict(-0.1), "margin=-0.1"
    ),
    "an interval of a table": Bad(lambda: student_interval(np.ones((3, 2))), r"values.*\(3, 2\)"),
    "adjust what is no probability": Bad(lambda: holm(np.array([0.1, 2.0])), "p_values=.*2.0"),
    "detect without freedom": Bad(lambda: noncentrality(0), "freedom=0"),
    "report into a file": Bad(report_into_a_file, "--out .* is a file", SystemExit),
    "write a report into a file": Bad(written_into_a_file, "out", (FileExistsError, ValueError)),
    "runs in one text": Bad(lambda: read_runs("runs"), "paths='runs'", TypeError),
    "the difference of one seed": Bad(
        lambda: difference_interval(np.ones((1, 2)), np.ones((3, 2))), r"first has shape \(1, 2\)"
    ),
    "the difference of other games": Bad(
        lambda: difference_interval(np.ones((3, 2)), np.ones((3, 1))), r"second.*\(3, 1\)"
    ),
    "the difference of no aggregate": Bad(
        lambda: difference_interval(np.ones((3, 2)), np.ones((3, 2)), "mode"), "name='mode'"
    ),
    "a table of one text": Bad(lambda: load_runs("runs"), "paths='runs'", TypeError),
    "a table of nothing there": Bad(
        lambda folder: load_runs([folder / "none"]), "none does not exist", RunDataError
    ),
    "a table that ignores nothing known": Bad(
        lambda folder: load_runs(runs(folder), ignore=["divice"]), "'divice'", RunDataError
    ),
    "attempts in no folder": Bad(lambda: read_attempts(3), "folder=3", TypeError),
    "a start at no env step": Bad(lambda: here(0, -1, 0, 1, "cpu"), "env_step=-1"),
    "a start of no process": Bad(lambda: here(0, 0, 0, 0, "cpu"), "processes=0"),
    "metrics of no file": Bad(
        lambda folder: read_metrics(folder / "none"), "none", FileNotFoundError
    ),
    "metrics of a pipe": Bad(lambda folder: read_metrics(endless(folder)), "metrics.jsonl"),
    "metrics that are no JSON": Bad(lambda folder: read_metrics(torn(folder)), "line 1"),
    "log at no step": Bad(
        lambda folder: log(folder).scalars({"a": 1.0}, NAN, 0), "env_step=nan", TypeError
    ),
    "log a text as a number": Bad(
        lambda folder: log(folder).scalars({"a": "1"}, 0, 0), r"metrics\['a'\]='1'", TypeError
    ),
    "log to a place that is none": Bad(
        lambda folder: RunLogger(folder, is_main=True, loggers=["tensorbord"]), "'tensorbord'"
    ),
    "log no mapping": Bad(
        lambda folder: log(folder).scalars([1.0], 0, 0), r"metrics=\[1.0\]", TypeError
    ),
    "log a picture of one axis": Bad(
        lambda folder: log(folder).add_image("a", np.zeros(3, np.uint8), 0), r"array.*\(3,\)"
    ),
    "log into a file": Bad(
        lambda folder: log(torn(folder)), "metrics.jsonl", (FileExistsError, ValueError)
    ),
}
