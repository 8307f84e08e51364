"""How much reward a game gives per env step while it is collected: a number that moves long before
an episode ends.

Shape legend: T = tasks of the run.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lzero import checks

# Env steps the rate refers to, and over which it is averaged at least: single rounds are noisy.
UNIT = 1000


class RewardRate:
    """The games' own reward per 1,000 env steps, over the last 1,000 or a little more of each game.

    The first number of a game comes after its first ``UNIT`` env steps at the latest, earlier ones
    are means over fewer.

    Args:
        games: names by task id.

    Raises:
        TypeError: if they are no names.
    """

    def __init__(self, games: Sequence[str]) -> None:
        checks.names("games", games)
        self.games = tuple(games)
        self._rounds = [
            deque[tuple[float, float]]() for _ in self.games
        ]  # (reward, env steps) of each game

    def add(self, reward: np.ndarray, steps: np.ndarray) -> None:
        """Count one round: its reward ``(T,)`` and env steps ``(T,)``, summed over all environments
        and ranks.

        Raises:
            ValueError: if there is not one number per game, or one is not finite.
        """
        for name, numbers in (("reward", reward), ("steps", steps)):
            checks.shape(name, numbers, len(self.games))
            checks.finite(name, numbers)
        for rounds, earned, taken in zip(self._rounds, reward, steps, strict=True):
            rounds.append((float(earned), float(taken)))
            while _total(rounds)[1] - rounds[0][1] >= UNIT:
                rounds.popleft()

    def by_game(self) -> Mapping[str, float]:
        """Reward per 1,000 env steps by game; games without a step are left out."""
        rates = {}
        for game, rounds in zip(self.games, self._rounds, strict=True):
            earned, taken = _total(rounds)
            if taken:
                rates[game] = UNIT * earned / taken
        return rates

    def state(self) -> list[list[tuple[float, float]]]:
        """What a checkpoint keeps, for JSON."""
        return list(map(list, self._rounds))

    def load(self, state: Sequence[Sequence[Sequence[float]]]) -> None:
        """Go on from :meth:`state`; ValueError if it is of other games."""
        if len(state) != len(self._rounds):
            raise ValueError(f"state is of {len(state)} games: allowed are {len(self._rounds)}")
        for rounds, saved in zip(self._rounds, state, strict=True):
            rounds.clear()
            for earned, taken in saved:
                rounds.append((earned, taken))


def _total(rounds: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Reward and env steps of some rounds."""
    reward = steps = 0.0
    for earned, taken in rounds:
        reward += earned
        steps += taken
    return reward, steps
