"""Encoder passes: whole batches against chunks that stay in the cache, and the two memory orders of frames.

    python benchmarks/encoder.py
    python benchmarks/encoder.py --frames 320 --widths 16,32 --rounds 9

Milliseconds, the best of the rounds; sizes of chunks on the columns. Without gradients as the target network runs, with them
forward and backward as an update does.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lzero.config import EncoderConfig
from lzero.nn.encoder import Encoder

DIM = 256


def best(run: Callable[[], object], rounds: int) -> float:
    """Shortest time in milliseconds, after one run that warms up."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def passes(encoder: Encoder, frames: Tensor, chunk: int, *, gradients: bool) -> None:
    """Encode ``frames`` in chunks; ``unnormalised`` takes what it is given whole."""
    task_id = torch.zeros(len(frames), dtype=torch.int64)
    with torch.set_grad_enabled(gradients):
        parts = [
            encoder.norm(encoder.unnormalised(*pair))
            for pair in zip(frames.split(chunk), task_id.split(chunk), strict=True)
        ]
        latent = torch.cat(parts)
    if gradients:
        latent.square().sum().backward()
        encoder.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=512, help="frames of a batch")
    parser.add_argument("--chunks", type=int, nargs="+", default=[256, 128, 64, 32], help="sizes")
    parser.add_argument(
        "--widths", nargs="+", default=["16,32", "32,64", "64,64"], help="channels of the stages"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each cell")
    args = parser.parse_args()
    stored = torch.randint(0, 256, (args.frames, 64, 64, 3), dtype=torch.uint8)
    sizes = [args.frames, *args.chunks]
    print(f"{args.frames} frames, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'widths':<10}{'order':<16}{'gradients':<11}" + "".join(f"{size:>9}" for size in sizes))
    for widths in args.widths:
        config = EncoderConfig.model_validate({"widths": [int(w) for w in widths.split(",")]})
        for order in (torch.channels_last, torch.contiguous_format):
            encoder = Encoder(config, (3, 64, 64), DIM, 1, "layer_norm")
            encoder.to(memory_format=order)
            frames = stored.permute(0, 3, 1, 2).contiguous(memory_format=order)
            name = "channels last" if order == torch.channels_last else "channels first"
            for gradients in (False, True):
                cells = []
                for size in sizes:

                    def run(size=size, encoder=encoder, frames=frames, gradients=gradients) -> None:
                        passes(encoder, frames, size, gradients=gradients)

                    cells.append(f"{best(run, args.rounds):>9.0f}")
                print(f"{widths:<10}{name:<16}{str(gradients):<11}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
