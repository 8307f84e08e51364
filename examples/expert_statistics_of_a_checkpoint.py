"""Which experts the games of a trained agent choose: shares by layer and window of past updates.

python examples/train_from_python.py
python examples/expert_statistics_of_a_checkpoint.py runs/example_catch

A window is the last 100, 1,000, 10,000 or 100,000 updates before the checkpoint was written.
"""

import sys
from pathlib import Path

from lzero.checkpoint import CheckpointError
from lzero.entry.eval_unizero_multitask import find_checkpoint, load_policy


def main(run: Path) -> None:
    """Print a table games × experts for every layer and window."""
    try:
        policy = load_policy(find_checkpoint(run), device="cpu")
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    layers = policy.expert_statistics.reduced()
    if not layers:
        sys.exit(f"error: no block of {run} routes tokens; train with model.moe.enabled")
    for layer, selection in layers.items():
        for index, window in enumerate(selection.windows):
            print(f"layer {layer}, window {window}")
            for task, game in enumerate(policy.config.env.games):
                shares = " ".join(f"{share:4.2f}" for share in selection.frequencies[index, task])
                print(f"  {game:<16} {shares}  in {selection.data_points[index, task]} updates")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/expert_statistics_of_a_checkpoint.py RUN_FOLDER")
    main(Path(sys.argv[1]))
