"""Collecting and updating at the work that LightZero does, beside the figures that LightZero gave.

    python benchmarks/against_lightzero.py
    python benchmarks/against_lightzero.py --games 1 8 --steps 20

Equal work: LightZero's encoder (145 MFLOP a frame), D = 256, 2 layers, 8 environments a game, 50 simulations of pUCT, experts
of LightZero's size (8 D² multiplications; the default ones have 40 % of that), one shared and one routed a token.

LightZero does not start on a machine without CUDA; its figures were measured once with a patched copy, on one machine and in
the same hour as lzero's torch path of 2026-11 (commit e3b459e). Here they are scaled by that path's rate on this machine: what
LightZero would give here if both had the same share of the machine's speed. It collects games in turn, so its rate is taken as
flat.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import argparse
import os
import statistics
import time

import numpy as np
import torch

from lzero.config import EnvConfig, ExperimentConfig
from lzero.policy import UniZeroMTPolicy
from lzero.policy.search_model import SWITCH
from lzero.replay.buffer import ReplayBuffer
from lzero.worker.actor import Actor
from zoo.atari.domain import ATARI
from zoo.atari.envs import ATARI8

# Measured on 2 cores with AVX2, 2 threads; env steps per second of one game, and seconds of an update with its sampling.
LIGHTZERO_COLLECT = {"dense": 8.4, "moe": 5.4}
LIGHTZERO_UPDATE = 7.1 + 1.6
LZERO_THEN = {"dense": 15.9, "moe": 4.4}  # torch path, one game, beside LightZero
EQUAL_EXPERTS = {"num_experts": 8, "num_shared_experts": 1, "top_k": 1, "hidden_ratio": 8 / 3}
NUM_ENVS, SIMULATIONS = 8, 50


def make_policy(
    games: tuple[str, ...], blocks: str, kind: str, simulations: int
) -> UniZeroMTPolicy:
    """Weights as at the start, but for outputs of the heads, which start at zero."""
    moe = EQUAL_EXPERTS if blocks == "moe" else {"enabled": False}
    config = ExperimentConfig.model_validate(
        {
            "env": {"games": games},
            "model": {
                "embed_dim": 256,
                "num_layers": 2,
                "moe": moe,
                "encoder": {"kind": "lightzero"},
            },
            "policy": {
                "batch_size": 32,
                "search": {"kind": kind, "num_simulations": simulations},
            },
        }
    )
    torch.manual_seed(0)
    policy = UniZeroMTPolicy(config, (3, 64, 64), np.ones((len(games), 18), bool))
    for parameter in policy.model.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def collecting(policy: UniZeroMTPolicy, games: tuple[str, ...], steps: int, native: bool) -> float:
    """Env steps per second: encoder, search, environments and all."""
    os.environ[SWITCH] = str(int(native))
    env = ATARI.make(
        EnvConfig(games=games), games, range(len(games)), [NUM_ENVS] * len(games),
        env_offsets=[0] * len(games), training=True, num_threads=torch.get_num_threads(),
    )  # fmt: skip
    actor = Actor(policy, env.task_id, env.legal_actions, np.random.default_rng(0))
    observation = env.reset(0).observation
    for _ in range(2):
        observation = env.step(actor.act(observation).action).observation
    start = time.perf_counter()
    for _ in range(steps):
        observation = env.step(actor.act(observation).action).observation
    rate = steps * env.num_envs / (time.perf_counter() - start)
    env.close()
    return rate


def collect_table(args: argparse.Namespace) -> dict[str, float]:
    """Print env steps per second; how fast this machine is, by blocks, as its torch path against that of then."""
    speed = {}
    print(f"\nEnv steps per second, {NUM_ENVS} environments a game")
    headers = f"{'torch':>9}{'compiled':>10}{'ratio':>7}{'Gumbel 16':>11}{'LightZero':>11}"
    print(f"{'blocks':<8}{'games':>6}{headers}{'compiled / LightZero':>22}")
    for blocks in ("dense", "moe"):
        for count in args.games:
            games = ATARI8[:count]
            policy = make_policy(games, blocks, "puct", SIMULATIONS)
            gumbel = make_policy(games, blocks, "gumbel", 16)
            torch_rate = collecting(policy, games, args.steps, native=False)
            native_rate = collecting(policy, games, args.steps, native=True)
            gumbel_rate = collecting(gumbel, games, args.steps, native=True)
            if blocks not in speed:  # the first line is one game's
                speed[blocks] = torch_rate / LZERO_THEN[blocks]
            theirs = speed[blocks] * LIGHTZERO_COLLECT[blocks]
            print(
                f"{blocks:<8}{count:>6}{torch_rate:>9.1f}{native_rate:>10.1f}{native_rate / torch_rate:>7.2f}"
                f"{gumbel_rate:>11.1f}{theirs:>11.1f}{native_rate / theirs:>22.1f}",
                flush=True,
            )
    return speed


def update_table(args: argparse.Namespace, speed: float) -> None:
    """Print seconds of an update of 2 x 32 windows with its sampling."""
    policy = make_policy(ATARI8[:2], "moe", "puct", SIMULATIONS)
    rng = np.random.default_rng(0)
    window = policy.config.policy.window
    replay = ReplayBuffer(np.repeat([0, 1], 8), 100, (3, 64, 64), np.uint8, 18, window)
    nothing = np.zeros(16, bool)
    for _ in range(100):
        frames = rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        visits = rng.dirichlet(np.ones(18), 16).astype(np.float32)
        reward = rng.integers(-1, 2, 16).astype(np.float32)
        actions = rng.integers(0, 18, 16)
        replay.append(frames, actions, reward, nothing, nothing, nothing, visits, reward)
    times = []
    for _ in range(args.updates + 1):
        start = time.perf_counter()
        policy.learn(replay.sample({0: 32, 1: 32}, rng))
        times.append(time.perf_counter() - start)
    taken, theirs = statistics.median(times[1:]), LIGHTZERO_UPDATE / speed
    print(
        f"\nUpdate of 2 x 32 windows, H = 10, experts of equal work: {taken:.2f} s, sampling included"
    )
    print(f"LightZero, scaled: {theirs:.2f} s; LightZero / lzero {theirs / taken:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", type=int, nargs="+", default=[1, 2, 4, 8], help="begins with 1")
    parser.add_argument("--steps", type=int, default=10, help="moves per rate")
    parser.add_argument("--updates", type=int, default=3, help="updates timed")
    args = parser.parse_args()
    if args.games[0] != 1:
        parser.error(
            "--games must begin with 1: LightZero's figures are scaled by the rate of one game"
        )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    speed = collect_table(args)
    update_table(args, speed["dense"])


if __name__ == "__main__":
    main()
