"""Env steps per second with random actions: the multi-task env against bare ALE vector envs.

    python benchmarks/env.py --games Pong MsPacman --envs 8 --threads 2

Every contestant plays the same episodes (same games, seeds, actions) on the same number of emulator threads.
They take turns in short rounds, so that a busy machine slows all of them; the table shows medians over the
rounds, and a ratio is the median of the ratios within a round. Goal: at least 0.9 of the faster bare loop.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from lzero.envs import task_seed
from zoo.atari.envs import make_atari_multitask_env, make_atari_vector_env
from zoo.atari.envs.atari import NUM_ACTIONS

StepFn = Callable[[np.ndarray], object]


def multi_task(options: argparse.Namespace) -> StepFn:
    """The joint env of all games as training uses it: clipped rewards, lives, channel-first observations."""
    env = make_atari_multitask_env(
        options.games,
        range(len(options.games)),
        options.envs,
        training=True,
        num_threads=options.threads,
    )
    env.reset(options.seed)
    return lambda actions: env.step(actions.ravel())


def bare(options: argparse.Namespace) -> list[AtariVectorEnv]:
    """One ALE vector env per game, with the seeds and threads that the joint env gives them."""
    threads = math.ceil(options.threads / len(options.games))
    envs = [
        make_atari_vector_env(game, options.envs, num_threads=threads) for game in options.games
    ]
    for task_id, env in enumerate(envs):
        env.reset(seed=task_seed(options.seed, task_id))
    return envs


def bare_in_turn(options: argparse.Namespace) -> StepFn:
    """Each game waits for the one before."""
    envs = bare(options)
    return lambda actions: [env.step(row) for env, row in zip(envs, actions, strict=True)]


def bare_overlapped(options: argparse.Namespace) -> StepFn:
    """All games emulate at the same time: the floor."""
    envs = bare(options)

    def step(actions: np.ndarray) -> object:
        for env, row in zip(envs, actions, strict=True):
            env.send(row)
        return [env.recv() for env in envs]

    return step


def seconds(step: StepFn, actions: np.ndarray) -> float:
    """Wall time of one round."""
    begin = time.perf_counter()
    for row in actions:
        step(row)
    return time.perf_counter() - begin


def measure(contestants: Sequence[StepFn], options: argparse.Namespace) -> np.ndarray:
    """Seconds per round ``(rounds, contestants)``; the first round warms up and is not counted."""
    rng = np.random.default_rng(options.seed)
    shape = (options.steps, len(options.games), options.envs)
    times = []
    for round_number in range(options.rounds + 1):
        actions = rng.integers(0, NUM_ACTIONS, shape)
        # Rotated, so that no contestant always follows the same one.
        order = np.roll(np.arange(len(contestants)), round_number)
        row = np.empty(len(contestants))
        for index in order:
            row[index] = seconds(contestants[index], actions)
        times.append(row)
    return np.array(times[1:])


def main() -> None:
    """Parse the options, measure, print the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--games", nargs="+", default=["Pong", "MsPacman"], help="CamelCase names")
    parser.add_argument("--envs", type=int, default=8, help="environments per game")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="emulator threads in all"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps per round and environment")
    parser.add_argument("--rounds", type=int, default=31, help="rounds that count")
    parser.add_argument("--seed", type=int, default=0, help="of episodes and actions")
    options = parser.parse_args()

    names = {
        "multi-task env": multi_task,
        "bare, overlapped": bare_overlapped,
        "bare, in turn": bare_in_turn,
    }
    times = measure([make(options) for make in names.values()], options)
    env_steps = options.steps * options.envs * len(options.games)

    print(
        f"{datetime.date.today()}  {platform.machine()}, {os.cpu_count()} cores, {options.threads} threads"
    )
    print(f"{len(options.games)} games x {options.envs} envs: {', '.join(options.games)}")
    print(f"{'contestant':<20}{'env steps/s':>12}{'spread':>20}{'multi-task / this':>20}")
    for name, column in zip(names, times.T, strict=True):
        rates = sorted(env_steps / column)
        spread = f"{rates[0]:.0f} - {rates[-1]:.0f}"
        ratio = statistics.median(column / times[:, 0])
        print(f"{name:<20}{statistics.median(rates):>12.0f}{spread:>20}{ratio:>20.3f}")


if __name__ == "__main__":
    main()
