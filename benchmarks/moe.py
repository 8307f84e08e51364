"""Mixture-of-experts layer, forward and backward, against a dense MLP with the same active parameters.

    python benchmarks/moe.py
    python benchmarks/moe.py --dims 256 768 --tokens 64 672 4096 --top-k 1 2

Prints every execution path's time over the dense MLP's, measured in turn in the same run, and marks the path that the layer
chooses. ``inference`` is the forward alone without gradients, as in the search.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from lzero.config import MoEConfig
from lzero.device import autocast, resolve_device, resolve_precision
from lzero.nn.feed_forward import DenseMLP
from lzero.nn.moe import PATHS, MoELayer, Segments, choose_path

CASES = {"training": [64, 256, 672, 1344, 4096], "inference": [8, 16, 64, 112, 448]}


def median_ratios(
    runs: dict[str, Callable[[], None]], rounds: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Median seconds of each run and median of its ratio to the first one, measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number >= 2:
                seconds[name].append(time.perf_counter() - start)
    base = seconds[next(iter(runs))]
    return {
        name: (
            statistics.median(taken),
            statistics.median(a / b for a, b in zip(taken, base, strict=True)),
        )
        for name, taken in seconds.items()
    }


def routed_run(layer: MoELayer, path: str, x: torch.Tensor, training: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.set_grad_enabled(training):
            gates, chosen, _, _ = layer.router(x)
            segments = Segments.of(chosen, len(layer.experts.w_in))
            y = layer.shared_experts[0](x) + PATHS[path](x, gates, chosen, layer.experts, segments)
        if training:
            layer.zero_grad(set_to_none=True)
            y.sum().backward()

    return run


def dense_run(
    mlp: nn.Module, x: torch.Tensor, task_id: torch.Tensor, training: bool
) -> Callable[[], None]:
    def run() -> None:
        with torch.set_grad_enabled(training):
            y, _ = mlp(x, task_id)
        if training:
            mlp.zero_grad(set_to_none=True)
            y.sum().backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 768], help="model widths")
    parser.add_argument(
        "--top-k", type=int, nargs="+", default=[1], help="routed experts per token"
    )
    parser.add_argument(
        "--tokens", type=int, nargs="+", help="numbers of tokens instead of the usual ones"
    )
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each path")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="as in the config"
    )
    args = parser.parse_args()
    device = resolve_device("auto")
    dtype = resolve_precision(args.precision, device)
    print(
        f"device {device}, precision {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for mode, usual in CASES.items():
        training = mode == "training"
        print(
            f"\n{mode}: time over dense MLP of the same active parameters; * the path the layer chooses"
        )
        print(
            f"{'D':<6}{'k':<4}{'tokens':<8}{'dense ms':>10}"
            + "".join(f"{path:>12}" for path in PATHS)
            + "   best"
        )
        for dim in args.dims:
            for top_k in args.top_k:
                torch.manual_seed(0)
                layer = MoELayer(MoEConfig(top_k=top_k), dim, 2).to(device).train(training)
                active = sum(p.numel() for p in layer.shared_experts.parameters())
                active += top_k * sum(p.numel() for p in layer.experts.parameters()) // 8
                mlp = DenseMLP(dim, round(active / (2 * dim))).to(device)
                for tokens in args.tokens or usual:
                    x = torch.randn(tokens, dim, device=device, requires_grad=training)
                    task_id = torch.zeros(tokens, dtype=torch.int64, device=device)
                    runs = {"dense": dense_run(mlp, x, task_id, training)}
                    runs |= {path: routed_run(layer, path, x, training) for path in PATHS}
                    with autocast(device, dtype):
                        ratios = median_ratios(runs, args.rounds, device)
                    segments = Segments.of(layer.router(x)[1], 8)
                    chosen = choose_path(device.type, dtype, segments, every_expert=top_k == 8)
                    best = min(PATHS, key=lambda path: ratios[path][0])
                    cells = "".join(
                        f"{ratios[path][1]:>11.2f}{'*' if path == chosen else ' '}"
                        for path in PATHS
                    )
                    print(
                        f"{dim:<6}{top_k:<4}{tokens:<8}{ratios['dense'][0] * 1e3:>10.2f}{cells}   {best}"
                    )


if __name__ == "__main__":
    main()
