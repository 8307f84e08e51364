"""Random, human and published scores of Atari games, always looked up by game name."""

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lzero.worker.score_table import aggregate

SCORES_FILE = Path(__file__).with_name("scores.json")


@dataclass(frozen=True)
class ReferenceLine:
    """A published result to hold one's own against; never a target to tune to.

    Attributes:
        setting: games and budget, such as ``atari8_400k_env_steps_18_actions``.
        method: name of the agent.
        source: where the numbers are printed, with what is known to be wrong about them.
        scores: raw score per game; empty where only aggregates were published.
        aggregates: human-normalised ``mean``, ``median``, ``iqm``: computed from ``scores`` where
            there are any, else as far as they were printed.
    """

    setting: str
    method: str
    source: str
    scores: Mapping[str, float]
    aggregates: Mapping[str, float]


def has_reference(game: str) -> bool:
    """Whether the scores of a random player and of a human are known."""
    return game in _data()["games"]


def human_normalised(game: str, raw: float) -> float:
    """Score on the scale where a random player has 0 and a human 1.

    Args:
        game: name as in gymnasium, such as ``MsPacman``.
        raw: undiscounted, unclipped return of an episode.

    Raises:
        ValueError: if the game is unknown, with the nearest name.
    """
    games = _data()["games"]
    if game not in games:
        nearest = difflib.get_close_matches(game, games, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"game={game!r} has no reference scores; nearest name: {nearest!r}; "
            f"known: {', '.join(games)}"
        )
    random, human = games[game]["random"], games[game]["human"]
    return (raw - random) / (human - random)


def reference_table() -> tuple[ReferenceLine, ...]:
    """All published results, in the order of the data file."""
    lines = []
    for setting, table in _data()["published"].items():
        for method, entry in table["methods"].items():
            scores = entry.get("scores", {})
            aggregates = entry.get("aggregates")
            if not aggregates:
                aggregates = aggregate(
                    {game: human_normalised(game, raw) for game, raw in scores.items()}
                )
            lines.append(ReferenceLine(setting, method, table["source"], scores, aggregates))
    return tuple(lines)


def reference_scores(game: str) -> dict[str, float]:
    """Raw scores of ``game`` to draw beside curves, by label; empty where none are known.

    Published ones are labelled with method, games and budget: of the 8 games learned together with
    all 18 actions, and of single games after 100,000 env steps.
    """
    published = {}
    for line in reference_table():
        if game in line.scores:
            budget = line.setting.partition("_env_steps")[0].replace("_", " ")
            published[f"{line.method} ({budget})"] = line.scores[game]
    return _data()["games"].get(game, {}) | published


@functools.cache
def _data() -> dict[str, Any]:
    return json.loads(SCORES_FILE.read_text(encoding="utf-8"))
