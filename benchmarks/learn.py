"""One update against the bare forward and backward of the model on ready tensors.

    python benchmarks/learn.py
    python benchmarks/learn.py --encoders resnet --rounds 5
    python benchmarks/learn.py --encoders nature --dim 128 --batch-size 20    # as in preset afternoon

Update: sample from the replay ring, targets, loss, backward, clip, optimiser, target network. Bare: target encoder and target
value pass on the same windows, online forward, loss and backward, with windows and targets already on the device. Share: what
the encoder's passes alone take of the update, the target's forward and the online one's forward and backward.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from lzero.config import ExperimentConfig
from lzero.device import fast_products
from lzero.model.unizero_world_models.world_model_multitask import Timeline
from lzero.replay.buffer import ReplayBuffer
from lzero.policy import UniZeroMTPolicy
from lzero.policy.losses import loss_sums, masked_means, spread_shortfall, weighted_total
from lzero.policy.targets import make_batch

NUM_ACTIONS = 18
ENCODERS = {
    "nature": {"kind": "nature", "widths": (16, 32, 32)},  # preset afternoon
    "small": {"kind": "resnet", "widths": (16, 32)},  # preset cpu
    "former": {"kind": "resnet", "widths": (32, 64)},  # preset cpu until 2026-11
    "resnet": {"kind": "resnet"},
    "resnet x2": {"kind": "resnet", "stem_stride": 2},
    "vit": {"kind": "vit"},
}


def make_policy(encoder: dict, args: argparse.Namespace) -> UniZeroMTPolicy:
    config = ExperimentConfig.model_validate(
        {
            "env": {"games": ("Pong", "MsPacman")},
            "model": {
                "embed_dim": args.dim,
                "num_layers": 2,
                "encoder": encoder,
                "moe": {"enabled": args.moe},
            },
            "policy": {"batch_size": args.batch_size},
            "precision": args.precision,
        }
    )
    torch.manual_seed(0)
    return UniZeroMTPolicy(config, (3, 64, 64), np.ones((2, NUM_ACTIONS), bool))


def filled_replay(window: int) -> ReplayBuffer:
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(np.repeat([0, 1], 8), 200, (3, 64, 64), np.uint8, NUM_ACTIONS, window)
    nothing = np.zeros(16, bool)
    for _ in range(200):
        visits = rng.dirichlet(np.ones(NUM_ACTIONS), 16).astype(np.float32)
        frames = rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        reward = rng.integers(-1, 2, 16).astype(np.float32)
        actions = rng.integers(0, NUM_ACTIONS, 16)
        replay.append(frames, actions, reward, nothing, nothing, nothing, visits, reward)
    return replay


def bare(
    policy: UniZeroMTPolicy, replay: ReplayBuffer, batch: dict[int, int]
) -> Callable[[], None]:
    windows = replay.sample(batch, np.random.default_rng(1))
    observation, action = windows.observation.to(policy.device), windows.action.to(policy.device)
    with policy.autocast():
        batch = make_batch(windows, policy.target, policy.support, policy.legal, policy.config)
    groups, timeline = batch.groups, Timeline(windows.episode.to(policy.device))

    def run() -> None:
        with policy.autocast():
            with torch.no_grad():
                latent = policy.target.encode(observation, groups)
                policy.target.world_model.value_logits(latent, action[:, :-1], groups, timeline)
            latent, output = policy.model(batch.observation, batch.action, groups, batch.timeline)
        sums = loss_sums(latent, output, batch, 2, policy.support, policy.model.encoder.norm)
        spread = spread_shortfall(latent, groups.task_id, sums.moments, policy.enough_spread)
        means = masked_means(sums.terms, sums.counts)
        weighted_total(
            means, spread, policy.config.policy.loss, policy.entropy_weight.weight()
        ).mean().backward()
        policy.model.zero_grad(set_to_none=True)

    return run


def encoder_alone(
    policy: UniZeroMTPolicy, replay: ReplayBuffer, batch: dict[int, int]
) -> Callable[[], None]:
    windows = replay.sample(batch, np.random.default_rng(1))
    observation = windows.observation.to(policy.device)
    with policy.autocast():
        batch = make_batch(windows, policy.target, policy.support, policy.legal, policy.config)

    def run() -> None:
        with policy.autocast():
            with torch.no_grad():
                policy.target.encode(observation, batch.groups)
            policy.model.encode(batch.observation, batch.groups).square().sum().backward()
        policy.model.zero_grad(set_to_none=True)

    return run


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    with fast_products(device):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def encoder_mflop(policy: UniZeroMTPolicy) -> float:
    """Multiply-adds times two of one frame's forward, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    frame = torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=policy.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        policy.model.encoder(frame, torch.zeros(1, dtype=torch.int64, device=policy.device))
    return counter.get_total_flops() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="which encoders"
    )
    parser.add_argument("--dim", type=int, default=256, help="model width")
    parser.add_argument(
        "--moe", action=argparse.BooleanOptionalAction, default=True, help="experts or dense blocks"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="windows per game")
    parser.add_argument("--rounds", type=int, default=3, help="measurements")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="as in the config"
    )
    args = parser.parse_args()
    rng = np.random.default_rng(2)
    batch = {0: args.batch_size, 1: args.batch_size}
    print(f"2 games x {args.batch_size} windows, H = 10, td = 5, D = {args.dim}, moe {args.moe}")
    print(
        f"{'encoder':<12}{'MFLOP/frame':>13}{'update s':>10}{'bare s':>9}{'ratio':>8}{'share':>9}"
        f"{'sample ms':>11}{'peak GiB':>10}"
    )
    for name in args.encoders:
        policy = make_policy(ENCODERS[name], args)
        replay = filled_replay(policy.config.policy.window)

        def update(policy=policy, replay=replay) -> None:
            policy.learn(replay.sample(batch, rng))

        plain = bare(policy, replay, batch)
        encoder = encoder_alone(policy, replay, batch)
        update(), plain(), encoder()
        rounds = [
            tuple(seconds(run, policy.device) for run in (update, plain, encoder))
            for _ in range(args.rounds)
        ]
        sampling = statistics.median(
            seconds(lambda r=replay: r.sample(batch, rng), policy.device) for _ in range(5)
        )
        whole, alone, _ = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(whole / alone for whole, alone, _ in rounds)
        share = statistics.median(encoder / whole for whole, _, encoder in rounds)

        gib = _peak_resident()
        print(
            f"{name:<12}{encoder_mflop(policy):>13.1f}{whole:>10.2f}{alone:>9.2f}{ratio:>8.2f}"
            f"{share:>9.0%}{sampling * 1e3:>11.1f}{gib / 2**30:>10.2f}"
        )
    print(
        f"device {policy.device}, precision {policy.dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _peak_resident() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
