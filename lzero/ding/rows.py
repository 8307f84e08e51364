"""Acting for those environments that a manager hands over: it gives the ready ones alone, our actor serves all of them.

Shape legend: N = environments, R = ready ones, A = actions.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from lzero import checks
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.worker.actor import Actor, Decision

MOST_PARTS = 16
"""Actors for subsets that are kept: environments that reset come back within a step or two, so few subsets return."""


class ReadyRows:
    """One actor for N environments that may be asked for any of them.

    Where all are ready it is :meth:`Actor.act <lzero.worker.actor.Actor.act>` itself. A subset is served by an actor of its
    own size, which takes over the contexts of its rows and gives them back.

    Args:
        core: whose model acts.
        task_id: ``(N,)`` int64, not decreasing.
        legal: legal actions ``(N, A)`` bool.
        rng: explores with it; None does not.
    """

    def __init__(
        self,
        core: UniZeroMTPolicy,
        task_id: np.ndarray,
        legal: np.ndarray,
        rng: np.random.Generator | None,
    ) -> None:
        self.core, self.task_id, self.legal, self.rng = core, task_id, legal, rng
        self._whole = Actor(core, task_id, legal, rng)
        self._parts: OrderedDict[tuple[int, ...], Actor] = OrderedDict()

    def act(
        self, rows: Sequence[int], observation: np.ndarray, *, random: bool = False
    ) -> Decision:
        """Choose for the environments ``rows``; their contexts move on, all others stay.

        Args:
            rows: ``(R,)``, ascending.
            observation: ``(R, *shape)``.
            random: draw legal actions uniformly, without looking.

        Raises:
            ValueError: for rows that are none of the N, or not ascending.
        """
        key = self._checked(rows)
        if len(key) == len(self.task_id):
            return self._decide(self._whole, observation, random)
        part, chosen = self._part(key), np.array(key)
        part.context.load(
            {name: held[chosen] for name, held in self._whole.context.state().items()}
        )
        decision = self._decide(part, observation, random)
        merged = {name: held.copy() for name, held in self._whole.context.state().items()}
        for name, held in part.context.state().items():
            merged[name][chosen] = held
        self._whole.context.load(merged)
        return decision

    def forget(self, rows: Sequence[int] | None) -> None:
        """Clear the contexts of ``rows``, whose episodes have ended; None clears all."""
        ended = np.full(len(self.task_id), rows is None)
        if rows is not None:
            ended[list(self._checked(sorted(rows)))] = True
        self._whole.forget(ended)

    def _decide(self, actor: Actor, observation: np.ndarray, random: bool) -> Decision:
        return actor.act_randomly() if random else actor.act(observation)

    def _part(self, rows: tuple[int, ...]) -> Actor:
        if rows not in self._parts:
            chosen = np.array(rows)
            part = Actor(self.core, self.task_id[chosen], self.legal[chosen], self.rng)
            part.search_model = self._whole.search_model  # has the weights packed already
            self._parts[rows] = part
        self._parts.move_to_end(rows)
        if len(self._parts) > MOST_PARTS:
            self._parts.popitem(last=False)
        return self._parts[rows]

    def _checked(self, rows: Sequence[int]) -> tuple[int, ...]:
        last = len(self.task_id) - 1
        key = tuple(checks.count("rows", row, 0, last) for row in rows)
        if not key or any(right <= left for left, right in zip(key, key[1:], strict=False)):
            raise ValueError(f"rows={list(key)}: allowed are numbers of environments, ascending")
        return key
