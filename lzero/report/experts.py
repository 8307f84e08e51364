"""How the games select experts over training: entropy, distance between games, load."""

import math
from collections.abc import Iterator
from dataclasses import replace

from lzero.report.curves import DIVERGENCES, ENTROPY, LOADS, WINDOWS, divergence_tags, load_tags
from lzero.report.figures import Panel
from lzero.report.pictures import SECTION_LACKING, SEEDS, CurvePicture, Section
from lzero.report.statistics import Curve
from lzero.report.study import Study

NUM_EXPERTS = "model.moe.num_experts"
WINDOW_TEXT = (
    "Windows count the selections of the last {immediate:,} (immediate) and {short:,} (short) updates.".format(
        **WINDOWS
    )
)
CAPTION = f"Means over layers. {SEEDS}"
MEANINGS = {
    ENTROPY: "entropy of selection [nats]",
    "JS_Divergence": "Jensen–Shannon [nats]",
    "TV_Distance": "total variation",
    "Wasserstein_Distance": "Wasserstein",
    "ExpertUsageEntropy": "entropy of usage [nats]",
    "DeadExperts": "experts that none chose",
    "LoadImbalance": "most used against mean",
}


def entropy_panels(study: Study) -> list[Panel]:
    """A panel for each game, a row for each window."""
    panels: list[Panel] = []
    for window in WINDOWS:
        row = []
        for task in study.tasks:
            metric = f"MOE_Details/{window}/{ENTROPY}"
            curves = [curve for curve in study.curves if (*task, metric) == (curve.domain, curve.game, curve.metric)]
            if curves:
                uniform = dict(_uniform(study, curves))
                limits = (0.0, max([*uniform.values(), *(float(curve.mean.max()) for curve in curves)]))
                row.append(Panel(f"{study.task_title(task)}, {window}", curves, uniform, limits=limits))
        panels += _as_row(row)
    return panels


def divergence_panels(study: Study) -> list[Panel]:
    """A panel for each measure of how far the games are apart, a row for each window."""
    return _panels(study, {window: dict(zip(DIVERGENCES, divergence_tags(window), strict=True)) for window in WINDOWS})


def load_panels(study: Study) -> list[Panel]:
    """A panel for each measure of how the experts are loaded, a row for each window."""
    return _panels(study, {window: dict(zip(LOADS, load_tags(window), strict=True)) for window in WINDOWS})


def meaning(metric: str) -> str:
    """What a number of the expert selection is, in words; without its window."""
    return next(text for name, text in MEANINGS.items() if metric.endswith(name))


def _panels(study: Study, tags: dict[str, dict[str, str]]) -> list[Panel]:
    panels: list[Panel] = []
    for window, names in tags.items():
        row = []
        for name, tag in names.items():
            curves = [curve for curve in study.curves if curve.metric == tag]
            if curves:
                row.append(Panel(f"{MEANINGS[name]}, {window}", curves))
        panels += _as_row(row)
    return panels


def _uniform(study: Study, curves: list[Curve]) -> Iterator[tuple[str, float]]:
    """Entropy of a game that uses all experts alike, for every number of experts among the groups of the curves."""
    shown = {curve.group for curve in curves}
    for group in study.groups:
        count = group.fields.get(NUM_EXPERTS)
        if group.label in shown and isinstance(count, int) and count > 1:
            yield f"all {count} alike", math.log(count)


def _as_row(panels: list[Panel]) -> list[Panel]:
    return [replace(panel, starts_row=number == 0) for number, panel in enumerate(panels)]


EXPERT_PICTURES = (
    CurvePicture(
        "expert_entropy",
        "Entropy of each game's expert selection",
        Section.EXPERTS,
        "nats",
        CAPTION,
        entropy_panels,
        SECTION_LACKING[Section.EXPERTS],
        f"0: the game always uses the same expert. It falls where experts specialise. {WINDOW_TEXT}",
    ),
    CurvePicture(
        "expert_divergence",
        "Distance between games in the experts that they select",
        Section.EXPERTS,
        "",
        f"Means over pairs of games and over layers. {SEEDS}",
        divergence_panels,
        SECTION_LACKING[Section.EXPERTS],
        "0: all games use the experts alike. Jensen–Shannon (at most ln 2 = 0.69) and total variation (at most 1) do not "
        "depend on how experts are numbered. Wasserstein takes their numbers for places on a line, as the study does that "
        f"it is compared with: another numbering gives another distance. {WINDOW_TEXT}",
    ),
    CurvePicture(
        "expert_load",
        "Load of the experts, all games together",
        Section.EXPERTS,
        "",
        CAPTION,
        load_panels,
        SECTION_LACKING[Section.EXPERTS],
        "Most used against mean: the load of the most used expert over the mean load, 1 where all are used alike, the "
        f"number of experts where one does everything. {WINDOW_TEXT}",
    ),
)
