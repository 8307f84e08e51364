"""How soon the first command ends after SIGTERM, by what it is at: it writes a checkpoint, and exits with status 143.

python benchmarks/signals.py
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py"
MOMENTS = {  # what a line of the metrics holds that tells of it, and seconds from then
    "start-up": ((), 4.0),
    "collecting at random": (("collect_reward/",), 0.0),
    "learning": (("learn/",), 5.0),
    "evaluating": (('"env_step": 960', "time/learn"), 3.0),
}
LIMIT = 600.0  # seconds to wait for a moment


def has_line(metrics: Path, signs: tuple[str, ...]) -> bool:
    """Whether a line of the file has all of them."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return any(all(sign in line for sign in signs) for line in lines)


def stopped(moment: str, directory: Path) -> tuple[float, int]:
    """Seconds between the signal and the end, and the exit status."""
    signs, seconds = MOMENTS[moment]
    # the first round with updates ends with an evaluation of some minutes
    more = ("--train.eval-interval", "880") if moment == "evaluating" else ()
    command = [sys.executable, str(SCRIPT), "cpu", "--output-dir", str(directory)]
    metrics = directory / "stopped" / "metrics.jsonl"
    with subprocess.Popen(
        [*command, "--exp-name", "stopped", "--train.log-interval", "10", *more],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        end = time.monotonic() + LIMIT
        while signs and not has_line(metrics, signs):
            if time.monotonic() > end or process.poll() is not None:
                process.kill()
                sys.exit(f"error: {moment} was not reached")
            time.sleep(0.05)
        time.sleep(seconds)
        start = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT)
        return time.perf_counter() - start, process.returncode


def main() -> None:
    """Print a line for each moment."""
    table = Table("moment", "seconds to the end", "status")
    for moment in MOMENTS:
        with tempfile.TemporaryDirectory() as directory:
            seconds, status = stopped(moment, Path(directory))
        table.add_row(moment, f"{seconds:.1f}", str(status))
    Console().print(table)


if __name__ == "__main__":
    main()
