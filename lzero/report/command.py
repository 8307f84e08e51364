"""Figures and tables of one or many runs: ``lzero report RUN [RUN …]``, or ``python -m lzero.report``.

lzero report runs/breakout_s0 runs/breakout_s1
lzero report runs/moe_s* runs/dense_s* --out reports/moe_against_dense

Runs whose configs are equal apart from names, lengths and rhythms (``NOT_LEARNING`` in
``lzero/config_fields.py``) are seeds of one experiment. What a run does not have is named in the
log, on the page and in ``notes.txt``, and never made up.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import rich
import tyro

from lzero.logging import setup_logging
from lzero.report import (
    analysis_tables,
    comparison,
    continual,
    differences,
    expert_files,
    headline,
    matrices,
    noise,
    paired,
    resources,
    tables,
)
from lzero.report.difference_tables import DIFFERENCE_PICTURES
from lzero.report.expert_pictures import EXPERT_PICTURES
from lzero.report.films import films
from lzero.report.page import page
from lzero.report.pictures import PICTURES, SECTION_LACKING, Drawn, Picture
from lzero.report.ppo_pictures import PPO_PICTURES
from lzero.report.progress import shown
from lzero.report.run_data import RunDataError, gather
from lzero.report.study import Study, build_study
from lzero.run_paths import RunPathError, find_runs

logger = logging.getLogger(__name__)

PAGE = "index.html"
TABLES = {
    "curves.csv": (tables.CURVE_COLUMNS, tables.curve_rows),
    headline.FILE: (headline.HEADLINE_COLUMNS, headline.headline_rows),
    "final.csv": (tables.FINAL_COLUMNS, tables.final_rows),
    "aggregate.csv": (comparison.AGGREGATE_COLUMNS, comparison.aggregate_rows),
    "improvement.csv": (comparison.IMPROVEMENT_COLUMNS, comparison.improvement_rows),
    "paired.csv": (paired.PAIRED_COLUMNS, paired.paired_rows),
    "resources.csv": (resources.RESOURCE_COLUMNS, resources.resource_rows),
    "environment.csv": (resources.ENVIRONMENT_COLUMNS, resources.environment_rows),
    "continual.csv": (continual.CONTINUAL_COLUMNS, continual.continual_rows),
    "conflict_final.csv": (analysis_tables.CONFLICT_COLUMNS, analysis_tables.conflict_rows),
    differences.CONFLICT_FILE: (
        differences.CONFLICT_DIFFERENCE_COLUMNS,
        differences.conflict_differences,
    ),
    "conflict_pairs.csv": (noise.PAIR_COLUMNS, noise.pair_rows),
    "conflict_shares.csv": (noise.SHARE_COLUMNS, noise.share_rows),
    "expert_final.csv": (analysis_tables.EXPERT_COLUMNS, analysis_tables.expert_rows),
    differences.EXPERT_FILE: (
        differences.EXPERT_DIFFERENCE_COLUMNS,
        differences.expert_differences,
    ),
    "expert_analysis.csv": (expert_files.ANALYSIS_COLUMNS, expert_files.analysis_rows),
    "expert_matching.csv": (expert_files.MATCHING_COLUMNS, expert_files.matching_rows),
    "matrices.csv": (matrices.MATRIX_COLUMNS, matrices.matrix_rows),
}
ALWAYS = (
    "curves.csv",
    "final.csv",
    "resources.csv",
    "environment.csv",
)  # the others are written only if there is something in them


@dataclass(frozen=True)
class ReportCommand:
    """Report on runs, seeds of one experiment together: final scores, returns, losses, gradient
    conflict, expert selection and plasticity; of PPO also comparisons over games, forgetting and
    transfer. Writes index.html, which has everything in one file, and beside it every picture (PNG)
    and every number (CSV).
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Folders of runs, e.g. runs/atari_cpu_moe, or anything inside them; a folder of runs stands for all of them."""
    out: Path | None = None
    """Folder of the report; ``report`` in the first folder that is named if not given. Pictures of an
    earlier report are replaced."""
    labels: tuple[str, ...] = ()
    """Names of the groups, in the order of their first runs; made from the runs' names if not
    given."""
    ignore: tuple[str, ...] = ()
    """Config fields or sections, e.g. ``device``, in which seeds of one experiment may differ
    too."""
    allow_domain: tuple[str, ...] = ()
    """Domains outside of lzero and zoo, as ``module:ATTRIBUTE``, whose code may run for their
    reference scores."""
    margin: float | None = None
    """Largest difference between two experiments' conflict that does not matter, in units of cosine,
    e.g. 0.05. It must be chosen before looking at the runs: one chosen afterwards can make anything
    equivalent. Without it nothing is called equivalent."""
    embed_videos: bool = False
    """Put the runs' videos into the page, at most 20 MiB of them; else it links to their files."""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; ``argv`` None takes the program's arguments."""
    command = tyro.cli(ReportCommand, prog="lzero report", args=argv)
    setup_logging(is_main=True)
    try:
        found = [find_runs(path) for path in command.runs]
        runs = list(chain.from_iterable(found))
        study = build_study(
            runs,
            labels=command.labels,
            ignore=command.ignore,
            allow_domains=command.allow_domain,
            margin=command.margin,
        )
    except (RunDataError, RunPathError) as error:
        sys.exit(f"error: {error}")
    folder = command.out or (runs[0] if len(found[0]) == 1 else command.runs[0]) / "report"
    if folder.exists() and not folder.is_dir():
        hint = "name a folder, which is made if it is not there"
        sys.exit(f"error: --out {folder} is a file; {hint}")
    files = write_report(study, folder, embed_videos=command.embed_videos)
    rich.get_console().print(tables.final_table(study))
    logger.info("wrote %s: %s", folder, ", ".join(files))
    logger.info("look at it: %s", (folder / PAGE).resolve().as_uri())


def write_report(study: Study, folder: Path, *, embed_videos: bool = False) -> list[str]:
    """Write the page, all figures and all tables; returns the names of the files.

    Files of an earlier report that now have nothing to show are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[Picture, Drawn]] = []
    missing: list[Picture] = []
    files = [PAGE]
    for picture in shown(
        (*PICTURES, *DIFFERENCE_PICTURES, *EXPERT_PICTURES, *PPO_PICTURES), "drawing"
    ):
        path = folder / f"{picture.name}.png"
        content = picture.draw(study)
        if content is None:
            path.unlink(missing_ok=True)
            if picture.expected(study):
                missing.append(picture)
        else:
            path.write_bytes(content.png)
            drawn.append((picture, content))
            files.append(path.name)
    _, compared = comparison.compare(study)
    of_tables = (
        *(*compared, *paired.paired_notes(study), *continual.continual_notes(study)),
        *(*differences.difference_notes(study), *expert_files.analysis_notes(study)),
    )
    shown_films, of_films = films(study, folder, embed=embed_videos)
    notes = [*study.notes, *of_films, *dict.fromkeys(of_tables), *_not_drawn(missing, drawn)]
    files += _write_tables(study, folder)
    (folder / PAGE).write_text(page(study, drawn, notes, shown_films), encoding="utf-8")
    (folder / "notes.txt").write_text("\n".join([*notes, ""]), encoding="utf-8")
    for note in notes:
        logger.warning("%s", note)
    return [*files, "notes.txt"]


def _not_drawn(missing: Sequence[Picture], drawn: Sequence[tuple[Picture, Drawn]]) -> Iterator[str]:
    """A sentence for each reason; a section of which nothing is shown has one for all."""
    there = set()
    for picture, _ in drawn:
        there.add(picture.section)
    lacking = []
    for picture in missing:
        of_section = SECTION_LACKING.get(picture.section, "")
        is_whole = of_section and picture.section not in there
        reason = of_section if is_whole else picture.lacking or of_section
        lacking.append((reason, f"{picture.name}.png"))
    for reason, names in gather(lacking).items():
        yield f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not drawn: {reason}"


def _write_tables(study: Study, folder: Path) -> Iterator[str]:
    """Names of the tables that are written."""
    for name, (columns, make_rows) in shown(tuple(TABLES.items()), "tables"):
        rows = list(make_rows(study))
        if rows or name in ALWAYS:
            tables.write_csv(folder / name, columns, rows)
            yield name
        else:
            (folder / name).unlink(missing_ok=True)
