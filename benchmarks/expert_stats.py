"""Expert-selection statistics: what counting and recording add to the forward and backward of a mixture-of-experts layer.

    python benchmarks/expert_stats.py
    python benchmarks/expert_stats.py --tokens 640 4096 --rounds 200

Two layers with the same weights run in turn: one counts its selections and records them after every backward, the other
does neither. Prints the median ratio, the time of counting and of recording alone, and the memory of the windows.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lzero.config import MoEConfig
from lzero.device import autocast, resolve_device, resolve_precision
from lzero.analysis.expert_statistics import ExpertSelectionStatistics
from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.nn.moe import MoELayer


class Uncounted(MoELayer):
    """The layer without statistics."""

    def _count(self, chosen_TK: Tensor, task_T: Tensor) -> None:
        pass


def update_of(layer: MoELayer, x: Tensor, task_id: Tensor, present: Tensor) -> Callable[[], None]:
    recorder = ExpertSelectionRecorder({} if isinstance(layer, Uncounted) else {0: layer})

    def run() -> None:
        y, _ = layer(x, task_id)
        y.sum().backward()
        layer.zero_grad(set_to_none=True)
        recorder.record(present)

    return run


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(
    off: Callable[[], None], on: Callable[[], None], rounds: int, device: torch.device
) -> tuple[float, ...]:
    """Median seconds of both, and the median of their ratio."""
    for _ in range(3):
        off(), on()
    pairs = []
    for number in range(rounds):  # who goes first alternates: the second finds warmer caches
        taken = {run: seconds(run, device) for run in ((off, on) if number % 2 else (on, off))}
        pairs.append((taken[off], taken[on]))
    without, with_statistics = (statistics.median(column) for column in zip(*pairs, strict=True))
    return without, with_statistics, statistics.median(b / a for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=256, help="model width")
    parser.add_argument("--tokens", type=int, nargs="+", default=[640], help="tokens per update")
    parser.add_argument("--tasks", type=int, default=26, help="tasks")
    parser.add_argument("--experts", type=int, default=8, help="routed experts, besides one shared")
    parser.add_argument(
        "--layers", type=int, default=4, help="layers of the model whose memory is printed"
    )
    parser.add_argument("--rounds", type=int, default=100, help="measurements of each")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="as in the config"
    )
    args = parser.parse_args()
    device = resolve_device("auto")
    dtype = resolve_precision(args.precision, device)
    print(
        f"device {device}, precision {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(
        f"{args.tasks} tasks, {args.experts}+1 experts, D = {args.dim}, {args.rounds} rounds in turn"
    )
    print(
        f"{'tokens':<8}{'off ms':>10}{'on ms':>10}{'on / off':>10}{'count us':>10}{'record us':>11}"
    )
    config = MoEConfig(num_experts=args.experts)
    present = torch.ones(args.tasks, dtype=torch.bool, device=device)
    for tokens in args.tokens:
        x = torch.randn(tokens, args.dim, device=device, requires_grad=True)
        task_id = torch.arange(tokens, device=device) % args.tasks
        plain, layer = (
            kind(config, args.dim, args.tasks).to(device).train() for kind in (Uncounted, MoELayer)
        )
        layer.load_state_dict(plain.state_dict())
        with autocast(device, dtype):
            off, on, ratio = measure(
                update_of(plain, x, task_id, present),
                update_of(layer, x, task_id, present),
                args.rounds,
                device,
            )
        chosen = layer.router(x)[1]
        alone = (
            partial(layer._count, chosen, task_id),
            partial(ExpertSelectionRecorder({0: layer}).record, present),
        )
        count, record = (
            statistics.median(seconds(run, device) for _ in range(300)) for run in alone
        )
        print(
            f"{tokens:<8}{off * 1e3:>10.2f}{on * 1e3:>10.2f}{ratio:>10.3f}{count * 1e6:>10.0f}{record * 1e6:>11.0f}",
            flush=True,
        )
    mib = ExpertSelectionStatistics(args.tasks, args.experts).nbytes / 2**20
    print(
        f"memory of the windows: {mib:.2f} MiB per layer, {args.layers * mib:.2f} MiB for {args.layers} layers"
    )


if __name__ == "__main__":
    main()
