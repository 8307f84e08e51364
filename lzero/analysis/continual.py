"""Measures of continual learning: games come one after another, each in turns, and may come again.

Shape legend: T = turns, G = games, N = evaluations. ``scores[i, j]`` is the score of game j at the
end of turn i, R of Lopez-Paz and Ranzato (arXiv 1706.08840), who let every task come once;
``played[i]`` is the game of turn i. What is not known, or not defined, is NaN; averages over games
are those of the numbers there are, NaN without any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lzero import checks


@dataclass(frozen=True)
class Measure:
    """A measure of each game, and its average."""

    per_game: np.ndarray  # (G,) NaN where it is not defined
    average: float  # over the games that have one


def at_turn_ends(
    env_step: np.ndarray, value: np.ndarray, ends: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Scores ``(T,)`` of one game at the ends of turns, from its curve.

    Args:
        env_step: ``(N,)`` env steps of the evaluations, increasing.
        value: ``(N,)`` their scores.
        ends: ``(T,)`` env steps at which the turns end, increasing; the first begins at 0.

    Returns:
        The last score of each turn, its end included and its beginning not; NaN for a turn without
        an evaluation: the one before it is that of another game's turn.

    Raises:
        ValueError: if lengths differ, or env steps or ends do not increase.
    """
    env_step, value = np.asarray(env_step, np.float64), np.asarray(value, np.float64)
    ends = np.asarray(ends, np.float64)
    checks.shape("env_step", env_step, None)
    checks.shape("value", value, len(env_step))
    checks.shape("ends", ends, None)
    for name, steps in (("env_step", env_step), ("ends", ends)):
        if (np.diff(steps) <= 0).any():
            raise ValueError(
                f"{name}={checks.shown(steps.tolist())}: allowed are growing env steps"
            )
    scores = np.full(len(ends), np.nan)
    begin = 0.0
    for turn, end in enumerate(ends):
        inside = (env_step > begin) & (env_step <= end)
        if inside.any():
            scores[turn] = value[inside][-1]
        begin = end
    return scores


def forgetting(scores: np.ndarray) -> Measure:
    """Best minus final score of every game: 0 where the final one is the best, never below.

    Args:
        scores: ``(T, G)`` at the ends of turns, or at any other times of one's curves. The best of
            many noisy scores is too good: with more rows, forgetting grows by the noise alone.

    Returns:
        Per game and averaged. NaN where the final score, of the last row, is not known; other
        unknown scores do not count.

    Raises:
        ValueError: if ``scores`` has no row, or other axes.

    Source: Chaudhry et al., arXiv 1801.10112, with the final score among those that may be best.
    """
    scores = _scores(scores)
    best = np.fmax.reduce(scores, axis=0)  # ignores NaN unless all are
    return _measure(best - scores[-1])


def backward_transfer(scores: np.ndarray, played: Sequence[int] | np.ndarray) -> Measure:
    """What the turns of other games do to a game; negative where it is forgotten.

    Of every turn i of game j it is ``scores[e, j] - scores[i, j]``, where e is the last turn before
    j comes again, or the last of all; the mean over the turns of j. Where every game comes once, e
    is always the last turn, and the average is BWT of Lopez-Paz and Ranzato.

    Args:
        scores: ``(T, G)`` at the ends of turns.
        played: ``(T,)`` game of every turn.

    Returns:
        Per game and averaged. NaN for a game after whose turns no other game was played (the last
        one, where all come once), that was never played, or without two known scores around the
        turns of others.

    Raises:
        TypeError: if ``played`` are no whole numbers.
        ValueError: if shapes do not fit, or there is no such game.
    """
    scores, played = _turns(scores, played)
    turns, games = scores.shape
    per_game = np.full(games, np.nan)
    for game in range(games):
        own = np.flatnonzero(played == game)
        changes = []
        for turn, following in pairwise((*own, turns)):
            last = following - 1
            change = scores[last, game] - scores[turn, game]
            if last > turn and np.isfinite(change):
                changes.append(change)
        if changes:
            per_game[game] = np.mean(changes)
    return _measure(per_game)


def forward_transfer(
    scores: np.ndarray, played: Sequence[int] | np.ndarray, before: np.ndarray
) -> Measure:
    """What was learned of other games does for a game before it is played itself.

    Of game j it is ``scores[f - 1, j] - before[j]``, where f is the first turn of j: later turns
    say nothing of it, because the game is known by then. So it is that of Lopez-Paz and Ranzato
    (FWT) however often games come.

    Args:
        scores: ``(T, G)`` at the ends of turns.
        played: ``(T,)`` game of every turn.
        before: ``(G,)`` scores before training, NaN where they are not known.

    Returns:
        Per game and averaged. NaN for the game that comes first, one that was never played, and
        where a score is not known.

    Raises:
        TypeError: if ``played`` are no whole numbers.
        ValueError: if shapes do not fit, or there is no such game.
    """
    scores, played = _turns(scores, played)
    before = np.asarray(before, np.float64)
    checks.shape("before", before, scores.shape[1])
    per_game = np.full(scores.shape[1], np.nan)
    for game in range(scores.shape[1]):
        own = np.flatnonzero(played == game)
        if len(own) and own[0] > 0:
            per_game[game] = scores[own[0] - 1, game] - before[game]
    return _measure(per_game)


def _scores(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    checks.shape("scores", scores, None, None)
    if not scores.size:
        raise ValueError(f"scores has shape {scores.shape}: at least one turn and game are needed")
    if np.isinf(scores).any():
        raise ValueError("scores has an infinity: allowed are numbers, and NaN for unknown ones")
    return scores


def _turns(scores: np.ndarray, played: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = _scores(scores)
    played = checks.tasks("played", played, scores.shape[1])
    checks.shape("played", played, len(scores))
    return scores, played


def _measure(per_game: np.ndarray) -> Measure:
    known = per_game[np.isfinite(per_game)]
    return Measure(per_game, float(known.mean()) if len(known) else float("nan"))
