"""The table of all pictures: what each shows, how its numbers were made, how to read it."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from lzero import tags
from lzero.report import curves, matrices, panels
from lzero.report.figures import LEAST_POINTS, Panel, draw
from lzero.report.statistics import LEVEL, MAX_BINS, RESAMPLES
from lzero.report.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAND = (
    f"Line: mean over seeds. Band: {LEVEL} percentile bootstrap interval over seeds "
    f"({RESAMPLES} resamples; too narrow with few seeds). Fewer than {LEAST_POINTS} points have no "
    "line, but bars for intervals; n: logged numbers"
)
SMOOTH = (
    f"A point is a mean over {100 / MAX_BINS:.0f} % or more of the env steps, or a logged value "
    "where there are few."
)
LINES = "Dashed: random policy. Dotted: published and other scores."
RANGE = "Shown are the env steps that all seeds of a group cover."
SEEDS = f"{BAND}. With one seed none. {SMOOTH} {RANGE}"
LINES_OF_TURNS = (
    "Vertical lines: another game begins, in the colour of an experiment with turns of its own."
)
SHADES_OF_TURNS = "Shaded: turns of the panel's own game, in which it is trained."
LAYERS = f"Means over layers. {SEEDS}"
SCORE = (
    "The conflict of two games is the negative cosine of their gradients: 1 where they pull in "
    "opposite directions, 0 where they do not meet, below 0 where they agree."
)
WINDOW_TEXT = (
    f"Windows count the selections of the last {tags.WINDOWS['immediate']:,} (immediate) and "
    f"{tags.WINDOWS['short']:,} (short) updates."
)


class Section(StrEnum):
    """Sections of the page, in their order."""

    RETURNS = "Returns"
    COMPARISON = "Comparison over games"
    CONTINUAL = "Continual learning"
    LEARNING = "Learning"
    CONFLICT = "Gradient conflict"
    EXPERTS = "Expert selection"
    PLASTICITY = "Plasticity"


SECTION_LACKING = {
    Section.CONFLICT: f"no run has measured gradient conflict ({tags.CONFLICT}…)",
    Section.EXPERTS: f"no run has logged expert selection ({tags.EXPERTS}…)",
    Section.PLASTICITY: f"no run has logged plasticity numbers ({tags.PLASTICITY}…)",
}
"""What is missing where a section has nothing to show."""


@dataclass(frozen=True)
class Drawn:
    """A picture as it was drawn."""

    png: bytes  # the file's content
    text: str  # how to read it, for below the picture


@dataclass(frozen=True)
class Picture:
    """One figure of the report."""

    name: str  # its file without the ending
    section: Section  # of the page
    title: str  # what it shows
    reading: str = field(default="", kw_only=True)  # how to read it; written below the picture
    lacking: str = field(default="", kw_only=True)  # why there is none; else SECTION_LACKING
    # Whether runs of a study should have it: only then is it said that it is not there.
    expected: Callable[[Study], bool] = field(default=lambda study: True, kw_only=True)

    def draw(self, study: Study) -> Drawn | None:
        """None if the runs have nothing to show there."""
        raise NotImplementedError


@dataclass(frozen=True)
class CurvePicture(Picture):
    """A figure of curves over training."""

    make: Callable[[Study], list[Panel]]  # its panels
    y_label: str = ""  # of its panels, with the unit
    caption: str = SEEDS  # how its numbers were made; written into the picture
    line_width: float = 1.8  # of its curves, in points
    is_over_training: bool = True  # whether its x-axes are env steps
    legend: Callable[[Study, Sequence[Panel]], Mapping[str, str | None]] = panels.group_legend

    def draw(self, study: Study) -> Drawn | None:
        """None if there are no panels."""
        shown = self.make(study)
        if not shown:
            return None
        caption = self.caption
        if self.is_over_training:
            shown = panels.with_turns(study, shown)
            if any(panel.switches for panel in shown):
                caption = f"{caption} {LINES_OF_TURNS}"
            if any(panel.spans for panel in shown):
                caption = f"{caption} {SHADES_OF_TURNS}"
        texts = {"title": self.title, "y_label": self.y_label, "caption": caption}
        figure = draw(shown, self.legend(study, shown), line_width=self.line_width, **texts)
        return Drawn(as_png(figure), self.reading)


@dataclass(frozen=True)
class MatrixPicture(Picture):
    """A figure of matrices."""

    make: Callable[[Study], list[matrices.Block]]
    limits: tuple[float, float]  # values at both ends of the colours
    colors: str  # matplotlib's name of the map
    column_label: str = ""  # what the columns are; empty where they are games like the rows
    names_seeds: bool = False  # whether the text says which seeds are shown

    def draw(self, study: Study) -> Drawn | None:
        """None if there are no blocks."""
        blocks = self.make(study)
        if not blocks:
            return None
        seeds = {}
        for block in blocks:
            for matrix in block.matrices:
                seeds[matrix.group] = f"{matrix.group}: {', '.join(matrix.seeds)}"
        shown = f" Shown: {'; '.join(seeds.values())}." if self.names_seeds else ""
        png = matrices.draw_blocks(blocks, self.limits, self.colors, self.column_label)
        return Drawn(png, f"{self.reading}{shown}")


def as_png(figure: "Figure") -> bytes:
    """Content of a file of a matplotlib figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


PICTURES: tuple[Picture, ...] = (
    CurvePicture(
        *("returns", Section.RETURNS, "Evaluation return"),
        partial(panels.game_panels, metric=tags.EVAL_RETURN, lacking="no evaluation to show"),
        "return per episode",
        f"{BAND}. With one seed: over the episodes of each evaluation if their scores were logged, "
        f"else none. {RANGE} Between its evaluations a seed is interpolated linearly. {LINES}",
        lacking="no run has an evaluation yet",
    ),
    CurvePicture(
        *("collect_returns", Section.RETURNS, "Return while collecting (search with exploration)"),
        partial(
            panels.game_panels, metric=tags.COLLECT_RETURN, lacking="no finished episode to show"
        ),
        "return per episode",
        f"{SEEDS} {LINES}",
        line_width=1.1,
        lacking="no run has finished an episode while collecting",
    ),
    CurvePicture(
        *("collect_rewards", Section.RETURNS, "Reward while collecting"),
        partial(panels.game_panels, metric=tags.COLLECT_REWARD, lacking="no reward rate to show"),
        "reward per 1,000 env steps",
        f"{SEEDS} The game's own rewards, there before the first episode ends. Dashed: these runs' "
        "mean while they still acted at random.",
        line_width=1.1,
        lacking=f"no run has logged rewards while collecting ({tags.COLLECT_REWARD}/…)",
    ),
    CurvePicture(
        *("learning", Section.LEARNING, "Loss terms and gradient norm"),
        partial(panels.tag_panels, prefix=tags.LEARN),
        "value of one update",
        f"{BAND}. With one seed none. Means over games; loss is the weighted sum of the other "
        f"terms, which are not weighted. {SMOOTH} {RANGE}",
        lacking=f"no run has logged an update ({tags.LEARN}…)",
    ),
    CurvePicture(
        *("health", Section.LEARNING, "Health of learning"),
        panels.health_panels,
        caption=f"Where two are in one panel: line (or full dots) predicted, circles realised. {SEEDS}",
        lacking=f"no run has logged {tags.HEALTH}… numbers",
        reading="Predicted values and rewards should follow the realised ones, the search should "
        "add something to the policy (search_kl), and neither rank nor length of the latents "
        "should collapse.",
    ),
    CurvePicture(
        *("conflict", Section.CONFLICT),
        "Largest conflict between any two games (maximum negative cosine)",
        partial(panels.conflict_panels, measure="max"),
        "conflict",
        reading=f"{SCORE} Shown is the pair of games in the strongest conflict. All panels have "
        "one scale.",
    ),
    CurvePicture(
        *("conflict_average", Section.CONFLICT, "Mean conflict over all pairs of games"),
        panels.average_panels,
        "conflict",
        lacking="two games are one pair, whose conflict is in conflict.png",
        reading="Negative: on the whole the games agree.",
    ),
    CurvePicture(
        *("conflict_rate", Section.CONFLICT, "Share of pairs of games in conflict"),
        partial(panels.conflict_panels, measure="rate"),
        "share of pairs",
        reading="Pairs whose gradients have a negative cosine. Gradients that have nothing to do "
        "with each other give about one half.",
    ),
    CurvePicture(
        *("conflict_reliability", Section.CONFLICT, "How much of a gradient is signal"),
        partial(panels.conflict_panels, measure="reliability"),
        "cosine of halves",
        lacking="no run has split a game's rows into halves",
        reading="Cosine between the gradients of two halves of a game's rows, mean over games: 1 "
        "without noise. Where it is small, cosines between games are small too, whatever the games "
        "ask for; conflict_pairs.csv has them without noise.",
    ),
    CurvePicture(
        *("conflict_shares", Section.CONFLICT, "Share of a layer's conflict in its parts"),
        panels.share_panels,
        "share",
        lacking=f"no run has logged {tags.CONFLICT_NORM_SHARE}… numbers",
        reading="Share of the negative scalar products between games' gradients, and of their "
        "squared norms, that lies in the shared expert and in the router; the rest lies in the "
        "routed experts. A part carries conflict beyond its size where the first is above the second. "
        "Of single measurements, which noise spreads over the parts; pooled in conflict_shares.csv.",
    ),
    MatrixPicture(
        *("conflict_matrices", Section.CONFLICT, "Who conflicts with whom at the end of training"),
        matrices.conflict_blocks,
        (-1.0, 1.0),
        "RdBu",
        lacking=f"no run has logged conflict matrices ({tags.CONFLICT_MATRIX}…)",
        reading="Cosine of the gradients of two games, mean over the last fifth of training and "
        "over seeds; red is conflict. Hatched: a game without gradient there.",
    ),
    CurvePicture(
        *("conflict_experts", Section.CONFLICT),
        "Largest conflict: shared expert, routed experts, whole feed-forward",
        panels.expert_panels,
        "conflict",
        f"{SEEDS} Thin: each routed expert of one seed; experts have no order that seeds share, so "
        "the mean over seeds is one of the mean over experts.",
        legend=panels.expert_legend,
        lacking="no run has measured gradient conflict of experts "
        f"({tags.CONFLICT}max_shared_expert/…, …_expert_{{e}}/…)",
        reading="A routed expert that fewer than two games used has no conflict to measure: such "
        "moments are left out, not counted as peace. conflict_final.csv tells how often there was "
        "a number.",
    ),
    CurvePicture(
        *("expert_entropy", Section.EXPERTS, "Entropy of each game's expert selection"),
        panels.entropy_panels,
        "nats",
        LAYERS,
        reading="0: the game always uses the same expert. It falls where experts specialise. "
        f"{WINDOW_TEXT}",
    ),
    CurvePicture(
        *("expert_divergence", Section.EXPERTS),
        "Distance between games in the experts that they select",
        partial(panels.window_panels, tags_of=curves.divergence_tags),
        caption=f"Means over pairs of games and over layers. {SEEDS}",
        reading="0: all games use the experts alike. Jensen–Shannon (at most ln 2 = 0.69) and "
        "total variation (at most 1) do not depend on how experts are numbered. Wasserstein takes "
        "their numbers for places on a line, as the study does that it is compared with: another "
        f"numbering gives another distance. {WINDOW_TEXT}",
    ),
    CurvePicture(
        *("expert_number", Section.EXPERTS, "Effective number of experts of each game"),
        panels.number_panels,
        "experts",
        LAYERS,
        reading="The exponential of the entropy: how many experts, used alike, would have it. 1: "
        f"the game always uses the same expert. {WINDOW_TEXT}",
    ),
    CurvePicture(
        *("expert_information", Section.EXPERTS, "What an expert tells of the game it is used by"),
        partial(panels.window_panels, tags_of=curves.information_tags),
        caption=LAYERS,
        reading="Mutual information of game and expert, games weighted equally: 0 where all games "
        "use the experts alike, at most the smaller of ln(games) and ln(experts). Counts of few "
        "selections give too much; what chance gives is in expert_information_null.png, if "
        f"checkpoints were analysed. {WINDOW_TEXT}",
    ),
    CurvePicture(
        *(
            "expert_shift",
            Section.EXPERTS,
            "How far each game's selection moved since the last log",
        ),
        partial(panels.selection_panels, quantity=tags.SELECTION_SHIFT),
        "total variation",
        LAYERS,
        reading="Share of a game's selections that go to other experts than at the log before. A "
        "window that is longer than the time between two logs is still in part the same, so it can "
        f"move by no more than that time's share of it. {WINDOW_TEXT}",
    ),
    CurvePicture(
        *("expert_load", Section.EXPERTS, "Load of the experts, all games together"),
        partial(panels.window_panels, tags_of=curves.load_tags),
        caption=LAYERS,
        reading="Most used against mean: the load of the most used expert over the mean load, 1 "
        "where all are used alike, the number of experts where one does everything. "
        f"{WINDOW_TEXT}",
    ),
    MatrixPicture(
        *("expert_selection", Section.EXPERTS, "Which game uses which expert"),
        matrices.selection_blocks,
        (0.0, 1.0),
        "viridis",
        "expert",
        names_seeds=True,
        lacking=f"no run has logged which game uses which expert ({tags.SELECTION_MATRIX}…)",
        reading="Share of each game's selections as last logged, of one seed of each experiment: "
        "experts have no order that seeds share, so a mean over seeds would say nothing. Rows sum "
        "to 1. Hatched: nothing counted.",
    ),
    MatrixPicture(
        *("expert_similarity", Section.EXPERTS),
        "Which games use the same experts at the end of training",
        matrices.similarity_blocks,
        (0.0, math.log(2)),
        "magma",
        lacking=f"no run has logged how far games are apart ({tags.SIMILARITY_MATRIX}…)",
        reading="Jensen–Shannon divergence of the selections, mean over the last fifth of training "
        "and over seeds: 0 for the same experts, ln 2 = 0.69 for experts of their own.",
    ),
    CurvePicture(
        *("dormant_units", Section.PLASTICITY, "Dormant units"),
        partial(panels.tag_panels, prefix=tags.DORMANT_RATIO, log_scale=False),
        "share of units",
        lacking=f"no run has logged {tags.DORMANT_RATIO}…",
        reading="A unit is dormant where its mean activation is at most a fortieth of its layer's "
        "(Sokar et al., arXiv 2302.12902). A share that grows over training is a network that "
        "loses what it could learn with.",
    ),
    CurvePicture(
        *("router_entropy", Section.PLASTICITY, "Entropy of the routers' probabilities"),
        partial(panels.tag_panels, prefix=tags.ROUTER_ENTROPY, log_scale=False),
        "nats",
        lacking=f"no run has logged {tags.ROUTER_ENTROPY}…",
        reading="Of a single token: low where the router is sure of its choice. How games share "
        "the experts is another question, see expert selection.",
    ),
    CurvePicture(
        *("weight_norms", Section.PLASTICITY, "Lengths of the weights"),
        partial(panels.tag_panels, prefix=tags.WEIGHT_NORM),
        lacking=f"no run has logged {tags.WEIGHT_NORM}…",
    ),
    CurvePicture(
        *("gradient_norms", Section.PLASTICITY, "Lengths of the gradients"),
        partial(panels.tag_panels, prefix=tags.GRADIENT_NORM),
        lacking=f"no run has logged {tags.GRADIENT_NORM}…",
    ),
)
"""In the order of the page; those of PPO and of comparisons over games are in ``ppo_pictures``."""
