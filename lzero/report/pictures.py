"""Pictures of a report and what they say: where the curves come from, how they were made, how to read them."""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lzero.report.figures import Panel, draw
from lzero.report.run_data import Group
from lzero.report.statistics import CONFIDENCE, MAX_BINS, OVER_EPISODES, RANDOM, RESAMPLES, Curve
from lzero.report.study import Study

LEVEL = f"{100 * CONFIDENCE:.0f} %"
BAND = (
    f"Line: mean over seeds. Band: {LEVEL} percentile bootstrap interval over seeds ({RESAMPLES} resamples; too narrow "
    "with few seeds)"
)
SMOOTH = (
    f"A point is a mean over {100 / MAX_BINS:.0f} % or more of the env steps, or a logged value where there are few."
)
LINES = "Dashed: random policy. Dotted: published and other scores."
RANGE = "Shown are the env steps that all seeds of a group cover."
SEEDS = f"{BAND}; with one seed none. {SMOOTH} {RANGE}"
"""Caption of curves that are not returns."""


class Section(StrEnum):
    """Sections of the page, in their order."""

    RETURNS = "Returns"
    LEARNING = "Learning"
    CONFLICT = "Gradient conflict"
    EXPERTS = "Expert selection"
    PLASTICITY = "Plasticity"


SECTION_LACKING = {
    Section.CONFLICT: "no run has measured gradient conflict (gradient_conflict/…)",
    Section.EXPERTS: "no run has logged expert selection (MOE_…)",
    Section.PLASTICITY: "no run has logged plasticity numbers (plasticity/…)",
}
"""What is missing where a section has nothing to show."""


@dataclass(frozen=True)
class Drawn:
    """A picture as it was drawn.

    Attributes:
        png: the file's content.
        text: how it was made and how to read it, for below the picture.
    """

    png: bytes
    text: str


class Picture(Protocol):
    """One figure of the report."""

    @property
    def name(self) -> str:
        """Its file without the ending."""

    @property
    def title(self) -> str:
        """What it shows."""

    @property
    def section(self) -> Section:
        """Where on the page it is."""

    @property
    def lacking(self) -> str:
        """What is missing if there is nothing to draw."""

    def draw(self, study: Study) -> Drawn | None:
        """None if the runs have nothing to show there."""


def group_legend(study: Study, panels: Sequence[Panel]) -> dict[str, str | None]:
    """Remarks on the groups for a legend; None for those that have nothing in these panels and miss nothing."""
    return {group.label: _legend_remark(group, panels) for group in study.groups}


@dataclass(frozen=True)
class CurvePicture:
    """A figure of curves over training.

    Attributes:
        name: its file without the ending.
        title: what it shows.
        section: of the page.
        y_label: of its panels, with the unit.
        caption: how its numbers were made; written into the picture.
        panels: makes its panels; none if the runs have nothing to show there.
        lacking: what is missing if there are none.
        reading: how to read it; written below the picture.
        line_width: of its curves, in points.
        legend: names and remarks of what is drawn, see :func:`lzero.report.figures.draw`.
    """

    name: str
    title: str
    section: Section
    y_label: str
    caption: str
    panels: Callable[[Study], list[Panel]]
    lacking: str
    reading: str = ""
    line_width: float = 1.8
    legend: Callable[[Study, Sequence[Panel]], Mapping[str, str | None]] = group_legend

    def draw(self, study: Study) -> Drawn | None:
        """None if there are no panels."""
        panels = self.panels(study)
        if not panels:
            return None
        figure = draw(
            panels,
            self.legend(study, panels),
            title=self.title,
            y_label=self.y_label,
            caption=self.caption,
            line_width=self.line_width,
        )
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return Drawn(file.getvalue(), self.reading)


def known_scores(study: Study, task: tuple[str, str]) -> Mapping[str, float]:
    """Scores of a game that its domain knows, by label."""
    return study.references[task]


def random_reward_rate(study: Study, task: tuple[str, str]) -> Mapping[str, float]:
    """Reward per 1,000 env steps of the runs' own random warm-up on a game; empty where no run had one."""
    domain, game = task
    rates: list[float] = []
    for run in (run for group in study.groups if group.domain == domain for run in group.runs):
        rate = run.series(f"collect_reward/{game}")
        rates += rate.value[rate.env_step <= run.fields.get("train.random_steps", 0)].tolist()
    return {RANDOM: sum(rates) / len(rates)} if rates else {}


def game_panels(
    study: Study,
    metric: str,
    lacking: str,
    references: Callable[[Study, tuple[str, str]], Mapping[str, float]] = known_scores,
) -> list[Panel]:
    """A panel for each game, with reference lines; none if no run has logged ``metric``.

    Args:
        study: what is reported.
        metric: tag without the game.
        lacking: what a group without the metric is said to lack.
        references: lines of one game by label; the domain's known scores by default.
    """
    panels = []
    for task in study.tasks:
        curves = [curve for curve in study.curves if (*task, metric) == (curve.domain, curve.game, curve.metric)]
        seeds = {curve.group: len(curve.seeds) for curve in curves}
        players = [group for group in study.groups if group.domain == task[0] and task[1] in group.games]
        missing = [f"{group.label}: {lacking}" for group in players if group.label not in seeds]
        missing += [
            f"{group.label}: {seeds[group.label]} of {len(group.runs)} seeds"
            for group in players
            if 0 < seeds.get(group.label, 0) < len(group.runs)
        ]
        panels.append(Panel(study.task_title(task), curves, references(study, task), missing))
    return panels if any(panel.curves for panel in panels) else []


def tag_panels(study: Study, prefix: str, *, log_scale: bool = True) -> list[Panel]:
    """A panel for each tag that begins with ``prefix``, sorted; ``all`` comes first."""
    panels: defaultdict[str, list[Curve]] = defaultdict(list)
    for curve in (curve for curve in study.curves if curve.metric.startswith(prefix)):
        game = study.task_title((curve.domain, curve.game)) if curve.game else ""
        panels["/".join(filter(None, (curve.metric.removeprefix(prefix), game)))].append(curve)
    titles = sorted(panels, key=lambda title: (title != "all", _with_numbers(title)))
    return [Panel(title, panels[title], log_scale=log_scale) for title in titles]


RETURN_PICTURES = (
    CurvePicture(
        "returns",
        "Evaluation return",
        Section.RETURNS,
        "return per episode",
        f"{BAND}; with one seed over the episodes of each evaluation if their scores were logged, else none. {RANGE} "
        f"Between its evaluations a seed is interpolated linearly. {LINES}",
        lambda study: game_panels(study, "eval_return", "no evaluation to show"),
        "no run has an evaluation yet",
    ),
    CurvePicture(
        "collect_returns",
        "Return while collecting (search with exploration)",
        Section.RETURNS,
        "return per episode",
        f"{BAND}; with one seed none. {SMOOTH} {RANGE} {LINES}",
        lambda study: game_panels(study, "collect_return", "no finished episode to show"),
        "no run has finished an episode while collecting",
        line_width=1.1,
    ),
    CurvePicture(
        "collect_rewards",
        "Reward while collecting",
        Section.RETURNS,
        "reward per 1,000 env steps",
        f"{BAND}; with one seed none. {SMOOTH} {RANGE} The game's own rewards, there before the first episode ends. Dashed: "
        "these runs' mean while they still acted at random.",
        lambda study: game_panels(study, "collect_reward", "no reward rate to show", random_reward_rate),
        "no run has logged rewards while collecting (collect_reward/…)",
        line_width=1.1,
    ),
)
LEARNING_PICTURES = (
    CurvePicture(
        "learning",
        "Loss terms and gradient norm",
        Section.LEARNING,
        "value of one update",
        f"{BAND}; with one seed none. Means over games; loss is the weighted sum of the other terms, which are not "
        f"weighted. {SMOOTH} {RANGE}",
        lambda study: tag_panels(study, "learn/"),
        "no run has logged an update (learn/…)",
    ),
    CurvePicture(
        "health",
        "Health of learning",
        Section.LEARNING,
        "",
        SEEDS,
        lambda study: tag_panels(study, "health/"),
        "no run has logged health/… numbers",
        "Predicted values and rewards should follow the realised ones, the search should add something to the policy "
        "(search_kl), and neither rank nor length of the latents should collapse.",
    ),
)
PLASTICITY_PICTURES = (
    CurvePicture(
        "dormant_units",
        "Dormant units",
        Section.PLASTICITY,
        "share of units",
        SEEDS,
        lambda study: tag_panels(study, "plasticity/dormant_ratio/", log_scale=False),
        "no run has logged plasticity/dormant_ratio/…",
        "A unit is dormant where its mean activation is at most a fortieth of its layer's (Sokar et al., arXiv "
        "2302.12902). A share that grows over training is a network that loses what it could learn with.",
    ),
    CurvePicture(
        "router_entropy",
        "Entropy of the routers' probabilities",
        Section.PLASTICITY,
        "nats",
        SEEDS,
        lambda study: tag_panels(study, "plasticity/router_entropy/", log_scale=False),
        "no run has logged plasticity/router_entropy/…",
        "Of a single token: low where the router is sure of its choice. How games share the experts is another "
        "question, see expert selection.",
    ),
    CurvePicture(
        "weight_norms",
        "Lengths of the weights",
        Section.PLASTICITY,
        "",
        SEEDS,
        lambda study: tag_panels(study, "plasticity/weight_norm/"),
        "no run has logged plasticity/weight_norm/…",
    ),
    CurvePicture(
        "gradient_norms",
        "Lengths of the gradients",
        Section.PLASTICITY,
        "",
        SEEDS,
        lambda study: tag_panels(study, "plasticity/gradient_norm/"),
        "no run has logged plasticity/gradient_norm/…",
    ),
)


def _with_numbers(title: str) -> list[tuple[int, str]]:
    """Sorts ``layer10`` behind ``layer9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", title)]


def _legend_remark(group: Group, panels: Sequence[Panel]) -> str | None:
    curves = [curve for panel in panels for curve in panel.curves if curve.group == group.label]
    is_missed = any(text.startswith(f"{group.label}: ") for panel in panels for text in panel.missing)
    if not curves and not is_missed:
        return None
    seeds = f"{len(group.runs)} seed{'s' if len(group.runs) > 1 else ''}"
    return f"{seeds}, band over episodes" if OVER_EPISODES in {curve.interval for curve in curves} else seeds
