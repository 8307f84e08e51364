"""How much reward a game gives per env step while it is collected: a number that moves long before an episode ends.

Shape legend: T = tasks of the run.
"""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

UNIT = 1000  # env steps to which the rate refers, and over which it is averaged at least: single rounds are noisy


class RewardRate:
    """The games' own reward per 1,000 env steps, over the last 1,000 or a little more of each game.

    The first number of a game comes after its first ``UNIT`` env steps at the latest, earlier ones are means over fewer.

    Args:
        games: names by task id.
    """

    def __init__(self, games: Sequence[str]) -> None:
        self.games = tuple(games)
        self._rounds: list[deque[tuple[float, float]]] = [deque() for _ in self.games]

    def add(self, reward: np.ndarray, steps: np.ndarray) -> None:
        """Count one round: its reward ``(T,)`` and env steps ``(T,)``, summed over all environments and ranks."""
        for rounds, earned, taken in zip(self._rounds, reward, steps, strict=True):
            rounds.append((float(earned), float(taken)))
            while sum(count for _, count in rounds) - rounds[0][1] >= UNIT:
                rounds.popleft()

    def by_game(self) -> Mapping[str, float]:
        """Reward per 1,000 env steps by game; games without a step are left out."""
        rates = {}
        for game, rounds in zip(self.games, self._rounds, strict=True):
            taken = sum(count for _, count in rounds)
            if taken:
                rates[game] = UNIT * sum(earned for earned, _ in rounds) / taken
        return rates

    def state(self) -> list[list[tuple[float, float]]]:
        """What a checkpoint keeps, for JSON."""
        return [list(rounds) for rounds in self._rounds]

    def load(self, state: Sequence[Sequence[Sequence[float]]]) -> None:
        """Go on from :meth:`state`."""
        self._rounds = [deque((earned, taken) for earned, taken in rounds) for rounds in state]
