"""The table of an evaluation: scores per game and their aggregates over games."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

from lzero import tags

REFERENCES = (
    "random",
    "human",
)  # labels of known scores that stand beside one's own; published ones are in the report


def aggregate(scores: Mapping[str, float]) -> dict[str, float]:
    """Aggregate normalised scores over games.

    Args:
        scores: normalised score per game.

    Returns:
        ``mean``, ``median`` and ``iqm`` (mean of the middle half; Agarwal et al., arXiv 2108.13264).

    Raises:
        ValueError: if there is no game, or a score is not finite.
    """
    if not scores:
        raise ValueError("scores={}: at least one game is needed")
    broken = [game for game, score in scores.items() if not math.isfinite(score)]
    if broken:
        raise ValueError(
            f"scores of {', '.join(broken)} are not finite: leave out games without a finished episode"
        )
    from scipy.stats import trim_mean  # takes longer to import than all else here

    values = np.array(list(scores.values()), dtype=np.float64)
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "iqm": float(trim_mean(values, 0.25)),
    }


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one evaluation.

    Attributes:
        scores: episode scores by game.
        normalised: mean score on the domain's common scale by game; empty where the domain has none.
        scale: what that scale is called.
        references: known raw scores by game and label, of which the table shows ``REFERENCES``.
    """

    scores: Mapping[str, np.ndarray]
    normalised: Mapping[str, float]
    scale: str = "normalised"
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        scores: Mapping[str, np.ndarray],
        normalise: Callable[[str, float], float | None],
        scale: str = "normalised",
        references: Callable[[str], Mapping[str, float]] = lambda game: {},
    ) -> "ScoreTable":
        """Table of episode ``scores`` by game.

        Args:
            scores: ``(E,)`` by game.
            normalise: (game, mean score) to the common scale; None for a game without one.
            scale: what that scale is called.
            references: game to its known raw scores by label.

        Raises:
            ValueError: if there is no game, or one has no episode.
        """
        if not scores:
            raise ValueError("scores={}: at least one game is needed")
        for game, values in scores.items():
            if not len(values):
                raise ValueError(f"scores of {game!r} are none: at least one episode is needed")
        normalised = {
            game: normalise(game, float(values.mean())) for game, values in scores.items()
        }
        on_scale = {game: value for game, value in normalised.items() if value is not None}
        return cls(scores, on_scale, scale, {game: references(game) for game in scores})

    def aggregates(self) -> dict[str, float]:
        """:func:`aggregate` of the normalised scores; empty where there are none."""
        return aggregate(self.normalised) if self.normalised else {}

    def score(self) -> float:
        """One number that is higher for better play: the mean over games of the normalised scores; where no game has one, of
        the raw ones.
        """
        if self.normalised:
            return self.aggregates()["mean"]
        return float(np.mean([values.mean() for values in self.scores.values()]))

    def metrics(self) -> dict[str, float]:
        """Numbers for the log."""
        metrics = {
            tags.of_game(tags.EVAL_RETURN, game): float(values.mean())
            for game, values in self.scores.items()
        }
        metrics |= {
            tags.of_game(tags.EVAL_NORMALISED, game): value
            for game, value in self.normalised.items()
        }
        return metrics | {
            f"{tags.EVAL_AGGREGATE}{name}": value for name, value in self.aggregates().items()
        }

    def render(self, title: str) -> Table:
        """The table for a terminal."""
        beside = []
        for label in REFERENCES:
            if any(label in known for known in self.references.values()):
                beside.append(label)
        table = Table(title=title)
        for header in ("game", "return", "std", "episodes", *beside, self.scale):
            table.add_column(header, justify="left" if header == "game" else "right")
        for game, values in self.scores.items():
            known = self.references.get(game, {})
            shown = [f"{known[label]:,.1f}" if label in known else "–" for label in beside]
            normalised = f"{self.normalised[game]:.3f}" if game in self.normalised else "–"
            table.add_row(
                game,
                f"{values.mean():,.1f}",
                f"{values.std():,.1f}",
                str(len(values)),
                *shown,
                normalised,
            )
        aggregates = self.aggregates()
        if aggregates:
            table.add_section()
        for name, value in aggregates.items():
            table.add_row({"iqm": "IQM"}.get(name, name), *[""] * (3 + len(beside)), f"{value:.3f}")
        return table
