"""Differences between two experiments for a reader: tables with the verdicts in words, and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from lzero import tags
from lzero.report import forest
from lzero.report.blocks import Table
from lzero.report.components import HEADLINE
from lzero.report.differences import (
    CHANGE,
    CONFLICT_FILE,
    EXPERT_FILE,
    HEADLINES,
    conflict_differences,
    expert_differences,
    two_groups,
)
from lzero.report.noise import DENOISED
from lzero.report.panels import meaning
from lzero.report.pictures import Drawn, Picture, Section, as_png
from lzero.report.statistics import LEVEL
from lzero.report.student import EQUIVALENT, LESS, MORE, UNPAIRED, WITHIN_MARGIN
from lzero.report.study import Study
from lzero.report.tables import Row, difference_label, interval, number

MEASURES = {HEADLINE: "largest conflict", DENOISED: "mean conflict without noise"}
"""Headline measures in words."""
PARTS = {CHANGE: "change from the first to the last fifth"}
NUMBERS = ("difference", f"{LEVEL} interval", "verdict", "p (Holm)", "detectable", "seeds")
EXPLANATION = (
    "Verdicts are of single comparisons; p (Holm) is adjusted for as many as there are in the table. "
    "Equivalent, or within a margin: so is the 90 % interval (two one-sided tests at 5 %). That "
    "something cannot be told is no sign of equality: detectable is the smallest difference "
    "that so many seeds of such a spread show in four of five studies."
)


def conflict_difference_table(study: Study) -> list[Table]:
    """Headline differences of the conflict; none unless there are two experiments with any."""
    compared = two_groups(study, tags.CONFLICT)
    rows = [row for row in conflict_differences(study) if row["family"] == HEADLINES]
    if compared is None or not rows:
        return []
    lines = [(MEASURES[row["measure"]], row["component"], *_cells(row)) for row in rows]
    margin = "No margin of equivalence was stated (--margin)."
    if study.margin is not None:
        margin = f"Stated margin of equivalence: {study.margin:g}."
    caption = (
        f"Conflict in the last fifth of training, {compared.label}. {margin} {_how(rows)} "
        f"{EXPLANATION} More in {CONFLICT_FILE}."
    )
    return [Table(("measure", "component", *NUMBERS), lines, texts=2, caption=caption)]


def expert_difference_table(study: Study) -> list[Table]:
    """Headline differences of the expert selection; none unless two experiments have any."""
    compared = two_groups(study, tags.EXPERTS)
    rows = [row for row in expert_differences(study) if row["family"] == HEADLINES]
    if compared is None or not rows:
        return []
    lines = []
    for row in rows:
        part = PARTS.get(row["part"], "last fifth")
        lines.append((_with_window(row["metric"]), part, *_cells(row)))
    caption = (
        f"Expert selection, {compared.label}, mean over layers. {_how(rows)} {EXPLANATION} More in "
        f"{EXPERT_FILE}."
    )
    return [Table(("number", "of", *NUMBERS), lines, texts=2, caption=caption)]


def verdict_in_words(row: Row) -> str:
    """A row's verdict with the name of the experiment that has less or more."""
    verdict = str(row["verdict"])
    side, _, _ = verdict.partition(",")
    words = {LESS: f"{row['first']} has less", MORE: f"{row['first']} has more"}
    text = words.get(side, verdict)
    if verdict == EQUIVALENT:
        return f"{text} within ±{row['margin']:g}"
    if verdict.endswith(WITHIN_MARGIN):
        return f"{text}, within ±{row['margin']:g}"
    return text


@dataclass(frozen=True)
class DifferencePicture(Picture):
    """Headline differences of the conflict, one below the other, beside 0 and the margin."""

    def draw(self, study: Study) -> Drawn | None:
        """None if no difference has an interval."""
        rows, estimates = [], []
        for row in conflict_differences(study):
            if row["family"] == HEADLINES and not isnan(row["low"]):
                label = difference_label(row["first"], row["second"])
                place = (MEASURES[row["measure"]], row["component"], label)
                numbers = (row["difference"], row["low"], row["high"])
                estimates.append(forest.Estimate(*place, *numbers, "difference of conflict"))
                rows.append(row)
        if not estimates:
            return None
        caption = f"Dot: mean over seeds. Whisker: {LEVEL} interval. {_how(rows)}"
        if study.margin is not None:
            caption += f" Dotted: the margin stated beforehand, ±{study.margin:g}."
        figure = forest.draw_forest(
            *(estimates, [estimates[0].group]),
            title=self.title,
            caption=caption,
            zero_line=True,
            margin=study.margin,
        )
        return Drawn(as_png(figure), self.reading)


def never(_: Study) -> bool:
    """Why there is no interval is said in notes."""
    return False


DIFFERENCE_PICTURES: tuple[Picture, ...] = (
    DifferencePicture(
        *("conflict_differences", Section.CONFLICT),
        "Difference of the conflict between the two experiments",
        expected=never,
        reading="Left of 0: less conflict in the first experiment. A whisker across 0 is no sign "
        "of equality. Equivalent is what lies with its 90 % interval between the dotted lines, where "
        "a margin was stated.",
    ),
)
"""In the order of the page."""


def _cells(row: Row) -> Sequence[str]:
    seeds = str(row["num_first"])
    if row["interval"] == UNPAIRED or row["num_first"] != row["num_second"]:
        seeds += f" + {row['num_second']}"
    return (
        *(number(row["difference"]), interval(row["low"], row["high"]), verdict_in_words(row)),
        *(number(row["p_holm"]), number(row["detectable"]), seeds),
    )


def _how(rows: Sequence[Row]) -> str:
    """How the intervals were made."""
    return f"{'; '.join(dict.fromkeys(row['interval'] for row in rows))}."


def _with_window(metric: str) -> str:
    """A number of the expert selection in words, with its window."""
    for window, updates in tags.WINDOWS.items():
        if f"/{window}" in metric:
            return f"{meaning(metric)}, last {updates:,} updates"
    return meaning(metric)
