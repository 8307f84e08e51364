"""Pictures of the study of mixtures of experts with PPO: comparisons over games, continual learning,
and how able to learn a network still is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lzero import tags
from lzero.report import comparison, continual, forest, panels
from lzero.report.pictures import CurvePicture, Drawn, Picture, Section, as_png
from lzero.report.statistics import LEVEL, RESAMPLES
from lzero.report.study import Study

STRATIFIED = (
    f"{LEVEL} stratified bootstrap intervals: seeds drawn anew for every game ({RESAMPLES} "
    "resamples; Agarwal et al., arXiv 2108.13264). Games of one run share a network: "
    "aggregate.csv has the intervals of whole runs beside them"
)


@dataclass(frozen=True)
class ForestPicture(Picture):
    """A figure of numbers with intervals, one below the other."""

    make: Callable[[Study], list[forest.Estimate]]
    caption: str  # how its numbers were made; written into the picture
    has_zero_line: bool = True

    def draw(self, study: Study) -> Drawn | None:
        """None if there is no number."""
        estimates = self.make(study)
        if not estimates:
            return None
        figure = forest.draw_forest(
            *(estimates, study.labels),
            title=self.title,
            caption=self.caption,
            zero_line=self.has_zero_line,
        )
        return Drawn(as_png(figure), self.reading)


def continual_estimates(study: Study) -> list[forest.Estimate]:
    """Forgetting and transfer of each game and over games, on the common scale; as returns where
    there is none.
    """
    rows = list(continual.continual_rows(study))
    on_scale = {row["group"] for row in rows if row["score"] != continual.RETURN}
    found = []
    for measure, title in continual.MEASURES.items():
        for row in rows:
            is_shown = row["score"] != continual.RETURN or row["group"] not in on_scale
            if is_shown and row["measure"] == measure:
                name = "mean over games"
                if row["game"]:
                    name = study.task_title((row["domain"], row["game"]))
                numbers = (row["mean"], row["low"], row["high"])
                found.append(forest.Estimate(title, name, row["group"], *numbers, row["score"]))
    return found


def aggregate_estimates(study: Study) -> list[forest.Estimate]:
    """Aggregates of the experiments that are compared; none where each has games of its own."""
    if comparison.compare(study)[0] is None:
        return []
    found = []
    for row in comparison.aggregate_rows(study):
        title = comparison.TITLES[row["aggregate"]]
        numbers = (row["value"], row["low"], row["high"])
        found.append(forest.Estimate(title, "", row["group"], *numbers, row["scale"]))
    return found


def has_continual(study: Study) -> bool:
    """Whether games of any run come one after another."""
    return bool(continual.continual_groups(study))


def has_ppo(study: Study) -> bool:
    """Whether any run is one of PPO."""
    return study.has_ppo


def never(_: Study) -> bool:
    """Of pictures whose lack is explained elsewhere."""
    return False


PPO_PICTURES: tuple[Picture, ...] = (
    ForestPicture(
        *("aggregates", Section.COMPARISON, "Final scores over all games and seeds"),
        aggregate_estimates,
        f"{STRATIFIED}.",
        has_zero_line=False,
        expected=never,
        reading="IQM: mean of the middle half of all scores, which neither a lucky run nor an easy "
        "game decides. Median: over games, of the mean over seeds. Optimality gap, where 1 is "
        "something to reach: by how much scores miss 1; lower is better.",
    ),
    CurvePicture(
        *("profiles", Section.COMPARISON, "Performance profiles"),
        panels.profile_panels,
        "share of runs with score > τ",
        f"Band: {STRATIFIED}.",
        is_over_training=False,
        expected=never,
        reading="How large a share of all runs and games ends above a score. A curve above another "
        "everywhere is better whatever score one asks for; where curves cross, it depends.",
    ),
    ForestPicture(
        *("continual", Section.CONTINUAL, "Forgetting and transfer between games"),
        continual_estimates,
        f"Dot: mean over seeds. Whisker: {LEVEL} percentile bootstrap interval over seeds "
        f"({RESAMPLES} resamples; too narrow with few seeds); with one seed none. Made of the last "
        "evaluation of each turn.",
        expected=has_continual,
        lacking="no continual run has finished a turn, or evaluations lack",
        reading="Forgetting: best minus final score; of noisy scores the best is too good, so it "
        "is above 0 even where nothing is lost. Backward transfer: from the end of a turn to the "
        "game's next turn, negative where other games make it worse. Forward transfer: right "
        "before a game is first played, against before training; the first game has none.",
    ),
    CurvePicture(
        *("router_entropy_games", Section.PLASTICITY),
        "Entropy of the routers' probabilities, game by game",
        panels.router_panels,
        "nats",
        expected=has_ppo,
        lacking=f"no run has logged {tags.GAME_ROUTER_ENTROPY}…",
        reading="Of a single token of the game, a row for each mixture: low where the router is "
        "sure which expert the game's observations go to.",
    ),
    CurvePicture(
        *("effective_rank", Section.PLASTICITY, "Effective rank of the features"),
        partial(panels.tag_panels, prefix=tags.EFFECTIVE_RANK, log_scale=False),
        "effective rank",
        expected=has_ppo,
        lacking=f"no run has logged {tags.EFFECTIVE_RANK}…",
        reading="Of what the output layer sees of the same observations throughout. A rank that "
        "falls leaves fewer directions to learn with.",
    ),
    CurvePicture(
        *("ntk_rank", Section.PLASTICITY, "Effective rank of the empirical neural tangent kernel"),
        partial(panels.tag_panels, prefix=tags.NTK_RANK, log_scale=False),
        "effective rank",
        expected=has_ppo,
        lacking=f"no run has logged {tags.NTK_RANK}…",
        reading="In how many directions the gradients of single observations point: low where one "
        "update changes all outputs alike.",
    ),
    CurvePicture(
        *(
            "gradient_similarity",
            Section.PLASTICITY,
            "Cosine of the gradients of two updates in a row",
        ),
        partial(panels.tag_panels, prefix=tags.GRADIENT_SIMILARITY, log_scale=False),
        "cosine",
        expected=has_ppo,
        lacking=f"no run has logged {tags.GRADIENT_SIMILARITY}",
        reading="Near 1: updates go on where the last one went. Below 0: each undoes part of the "
        "one before.",
    ),
)
"""In the order of the page."""
