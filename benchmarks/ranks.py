"""The real training script with one process and with two on the same cores: env steps and updates per second.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --env-steps 960 --extra --policy.batch-size 32

Rates come from the runs' own metrics.jsonl, from the first logged update to the last: start-up and evaluation are left out.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from lzero.logging import read_metrics

SCRIPT = (
    Path(__file__).parents[1] / "zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py"
)


def measure(
    processes: int, env_steps: int, extra: list[str], directory: Path
) -> tuple[float, float]:
    """Env steps per second over both games, and updates per second."""
    launcher = (
        ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    )
    name = f"ranks{processes}"
    command = [
        sys.executable,
        *launcher,
        str(SCRIPT),
        "cpu",
        "--exp-name",
        name,
        "--output-dir",
        str(directory),
    ]
    command += [
        "--train.max-env-steps",
        str(env_steps),
        "--train.eval-interval",
        str(10 * env_steps),
    ]
    command += [
        "--train.eval-episodes",
        "1",
        "--env.num-eval-envs",
        "1",
        "--env.max-episode-steps",
        "50",
    ]
    command += [
        "--train.no-video",
        "--train.log-interval",
        "1",
        "--train.checkpoint-interval",
        str(10 * env_steps),
        *extra,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = [
        row
        for row in read_metrics(directory / name / "metrics.jsonl")
        if "learn/loss" in row["metrics"]
    ]
    # Whole rounds only: from the end of the first round of updates to the end of the last.
    first = next(i for i, row in enumerate(rows) if row["env_step"] > rows[0]["env_step"]) - 1
    seconds = rows[-1]["wall_time"] - rows[first]["wall_time"]
    env = 2 * (rows[-1]["env_step"] - rows[first]["env_step"])
    return env / seconds, (rows[-1]["train_iter"] - rows[first]["train_iter"]) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env-steps", type=int, default=960, help="env steps per game of each run")
    parser.add_argument(
        "--extra",
        nargs=argparse.REMAINDER,
        default=[],
        help="further arguments of the training script",
    )
    args = parser.parse_args()
    rates = {}
    with tempfile.TemporaryDirectory() as directory:
        for processes in (1, 2):
            rates[processes] = measure(processes, args.env_steps, args.extra, Path(directory))
    print(f"{'processes':<12}{'env steps/s':>14}{'updates/s':>12}")
    for processes, (env, updates) in rates.items():
        print(f"{processes:<12}{env:>14.1f}{updates:>12.2f}")
    print(f"two processes over one: {rates[2][0] / rates[1][0]:.2f}")


if __name__ == "__main__":
    main()
