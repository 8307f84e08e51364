"""Variants of a training times seeds, side by side: how ``learning.py`` and ``mixture.py`` train, and keep what came of it."""

import gzip
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lzero.command.jobs import Ended, Job, JobsStoppedError, run_jobs
from lzero.command.sweep_file import slug
from lzero.logging import METRICS_FILE, read_metrics
from lzero.report.run_data import CONFIG_FILE

ROOT = Path(__file__).parents[1]
FINISHED = "finished.txt"  # in a run's folder: what it took


@dataclass(frozen=True)
class Variant:
    """A training script, its preset and what is changed."""

    name: str
    script: str
    preset: str
    arguments: str = ""

    def job(self, seed: int, folder: Path) -> Job:
        """The program that trains it with a seed."""
        command = [sys.executable, str(ROOT / self.script), self.preset, *self.arguments.split()]
        command += ["--train.no-video", "--output-dir", str(folder.parent)]
        command += ["--exp-name", folder.name, "--seed", str(seed)]
        return Job(folder.name, tuple(command), folder / "log.txt")


@dataclass(frozen=True)
class Grid:
    """Variants times seeds.

    Attributes:
        variants: what is trained.
        seeds: one run of each variant per seed.
        folder: of all runs: ``{folder}/{variant}_s{seed}``.
        kept: folder to which config, metrics and times of every run go when it has finished; None keeps nothing.
        tags: how the tags of kept metrics begin.
    """

    variants: Sequence[Variant]
    seeds: Sequence[int]
    folder: Path
    kept: Path | None = None
    tags: tuple[str, ...] = ()

    def folder_of(self, variant: Variant, seed: int) -> Path:
        """Folder of a run."""
        return self.folder.resolve() / f"{slug(variant.name)}_s{seed}"

    def folders(self) -> Iterable[tuple[Variant, int, Path]]:
        """All runs in the order in which they begin: something of every variant early."""
        for seed in self.seeds:
            for variant in self.variants:
                yield variant, seed, self.folder_of(variant, seed)

    def train(self, side_by_side: int) -> None:
        """Train what is not finished, ``side_by_side`` runs at a time, each on one thread.

        Raises:
            SystemExit: if a run failed, or somebody asked to stop.
        """
        jobs = []
        for variant, seed, folder in self.folders():
            if is_finished(folder):
                self._keep(folder)
            else:
                jobs.append(variant.job(seed, folder))
        try:
            all_ended = run_jobs(jobs, side_by_side, title=self.folder.name, on_end=self._note)
        except JobsStoppedError as stopped:
            raise SystemExit(stopped.status) from stopped
        failed = sum(ended.status != 0 for ended in all_ended)
        if failed:
            raise SystemExit(f"{failed} of {len(jobs)} runs failed; the same command tries again")

    def _note(self, ended: Ended) -> None:
        """Mark a run as finished, with what it took, and keep it; or say why it is not."""
        folder = ended.job.log.parent
        if ended.status:
            print(
                f"{folder.name} ended with {ended.status}: {ended.last_line}; see {ended.job.log}"
            )
            return
        took = f"{ended.wall_seconds:.0f} s wall, {ended.cpu_seconds:.0f} s CPU\n"
        (folder / FINISHED).write_text(took)
        self._keep(folder)

    def _keep(self, folder: Path) -> None:
        if self.kept is not None:
            keep(folder, self.kept / folder.name, self.tags)


def is_finished(folder: Path) -> bool:
    """Whether a run has been trained to its end."""
    return (folder / FINISHED).exists()


def keep(folder: Path, kept: Path, tags: tuple[str, ...]) -> None:
    """Write to ``kept`` what tables and figures need of the run in ``folder``: metrics whose tags begin so, compressed."""
    kept.mkdir(parents=True, exist_ok=True)
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["output_dir"] = f"runs/{folder.parent.name}"  # says nothing of the machine
    (kept / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
    lines = []
    for line in read_metrics(folder / METRICS_FILE):
        for part in ("metrics", "arrays"):
            line[part] = {
                tag: value for tag, value in line.get(part, {}).items() if tag.startswith(tags)
            }
        if line["metrics"] or line["arrays"]:
            lines.append(json.dumps(line) + "\n")
    # without the time at which it was compressed: the same run gives the same file
    compressed = gzip.compress("".join(lines).encode(), mtime=0)
    (kept / f"{METRICS_FILE}.gz").write_bytes(compressed)
    (kept / METRICS_FILE).unlink(missing_ok=True)  # once kept plain, it would be read in its place
    (kept / FINISHED).write_text((folder / FINISHED).read_text())
