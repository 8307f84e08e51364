"""How a multi-task env talks to the environments of one task, and how these are brought back to where they were.

No emulator pool of the field can write down where its games are. Games are deterministic though: a seed and the actions since
decide everything. A :class:`ReplayablePort` remembers both; playing them again ends in the same states, bit for bit. So that
there is never much to play again, environments are seeded anew from time to time, where one of their episodes begins.

Shape legend: n = environments of the task, S = steps since the oldest of their seeds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from lzero import checks

VectorAnswer = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]
"""What a gymnasium vector env answers: observations, rewards, terminated, truncated, and infos,
which may be anything.
"""

MAX_SEED = 2**31 - 2**20
"""Seeds stay below: ALE keeps them in signed 32-bit integers, and the numbers of a task's environments are added to them."""

_FIRST_LENGTH = 1024  # actions for which there is room at first; doubled when needed


class Port:
    """Actions go out to the environments of a task, answers come back; between the two other tasks may be served.

    Args:
        env: autoreset NEXT_STEP.
    """

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self._send, self._receive = _send_and_receive(env)

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every environment; number j is seeded with ``seed + j``."""
        return self.env.reset(seed=seed)

    def send(self, actions: np.ndarray) -> None:
        """Begin a step with ``actions (n,)``."""
        self._send(actions)

    def receive(self) -> VectorAnswer:
        """What the environments answer to the step."""
        return self._receive()

    def step(self, actions: np.ndarray) -> VectorAnswer:
        """Send and receive."""
        self.send(actions)
        return self.receive()

    def cut(self, where: np.ndarray) -> None:
        """Be told that the episodes of ``where (n,)`` are over, though the environments do not think so.

        Of these environments nothing is known: they play on, and what follows counts as the next episode.
        """

    def state(self) -> dict[str, np.ndarray] | None:
        """What :meth:`restore` needs; None, because nothing is known of these environments."""
        return None

    def restore(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Not possible.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("these environments cannot be brought back to where they were")


class ReplayablePort(Port):
    """A port to deterministic environments, which remembers what brought each of them to where it is.

    Args:
        env: deterministic by seed and actions, each environment on its own; ``reset`` takes one seed per environment and the
            option ``reset_mask``, as gymnasium's ``SyncVectorEnv`` does.
        reseed_after: an episode that begins when at least so many steps were played since the last seed gets a seed of its
            own, drawn from the first seed and the number of seeds so far.
    """

    def __init__(self, env: VectorEnv, reseed_after: int) -> None:
        super().__init__(env)
        self.reseed_after = reseed_after
        self._first_seed = np.zeros(env.num_envs, np.int64)
        self._seeds = np.zeros(env.num_envs, np.int64)  # how many there were before the present one
        self._steps = np.zeros(env.num_envs, np.int64)  # since the present one
        self._actions = np.zeros((env.num_envs, _FIRST_LENGTH), np.int64)
        self._over = np.zeros(env.num_envs, np.bool_)
        self._cut = np.zeros(env.num_envs, np.bool_)

    def cut(self, where: np.ndarray) -> None:
        """End the episodes of ``where (n,)``: the next step begins others there, each with a new seed."""
        self._cut |= where

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """As :meth:`Port.reset`; what was remembered is forgotten."""
        self._first_seed = seed + np.arange(self.env.num_envs)
        self._seeds[:] = 0
        self._steps[:] = 0
        self._over[:] = False
        self._cut[:] = False
        return super().reset(seed)

    def send(self, actions: np.ndarray) -> None:
        """Begin a step with ``actions (n,)`` and remember them."""
        if self._steps.max() == self._actions.shape[1]:
            self._actions = np.concatenate((self._actions, np.zeros_like(self._actions)), axis=1)
        self._actions[np.arange(len(actions)), self._steps] = actions
        self._steps += 1
        super().send(actions)

    def receive(self) -> VectorAnswer:
        """What the environments answer; where an episode begins and it is time, it begins with a new seed."""
        observation, reward, terminated, truncated, info = super().receive()
        cut = self._cut
        reseeded = cut | (self._over & (self._steps > self.reseed_after))
        if cut.any():  # their last game's answer is not wanted any more
            reward, terminated, truncated = (
                np.where(cut, 0, part) for part in (reward, terminated, truncated)
            )
            self._cut = np.zeros_like(cut)
        self._over = np.asarray(terminated + truncated, np.bool_)
        if reseeded.any():
            self._seeds[reseeded] += 1
            self._steps[reseeded] = 0
            begun, begun_info = self._reset_where(reseeded)
            observation = np.where(_along(reseeded, observation), begun, observation)
            info = _merged(info, begun_info, reseeded)
        return observation, reward, terminated, truncated, info

    def state(self) -> dict[str, np.ndarray]:
        """Seeds, and actions since: ``first_seed, seeds, steps (n,)``, ``over, cut (n,)`` and ``actions (n, S)``."""
        actions = self._actions[:, : self._steps.max()].copy()
        later = np.arange(actions.shape[1]) >= self._steps[:, None]
        actions[later] = 0  # of an earlier seed
        return {
            "first_seed": self._first_seed.copy(),
            "seeds": self._seeds.copy(),
            "steps": self._steps.copy(),
            "over": self._over.copy(),
            "cut": self._cut.copy(),
            "actions": actions,
        }

    def restore(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Play again what :meth:`state` remembers; the observations ``(n, …)`` at its end.

        Raises:
            ValueError: if something of it is missing.
        """
        missing = [name for name in self.state() if name not in state]
        if missing:
            raise ValueError(f"state={checks.shown(sorted(state))} lacks {', '.join(missing)}")
        self._first_seed, self._seeds = state["first_seed"].copy(), state["seeds"].copy()
        self._steps, self._over = state["steps"].copy(), state["over"].copy()
        self._cut = state["cut"].copy()
        actions = state["actions"]
        length = max(_FIRST_LENGTH, actions.shape[1])
        self._actions = np.zeros((len(actions), length), np.int64)
        self._actions[:, : actions.shape[1]] = actions

        # All end together, so those with fewer steps begin later; what they play until then is nobody's.
        longest = int(self._steps.max())
        begins = longest - self._steps
        observation = self._reset_where(np.ones(len(actions), np.bool_))[0].copy()
        rows = np.arange(len(actions))
        for t in range(longest):
            if t > 0 and (begins == t).any():
                self._reset_where(begins == t)
            action = np.where(t >= begins, self._actions[rows, np.maximum(t - begins, 0)], 0)
            self._send(action)
            observation = self._receive()[0]
        last = begins == longest
        if longest > 0 and last.any():
            begun = self._reset_where(last)[0]
            observation = np.where(_along(last, observation), begun, observation)
        return observation

    def _reset_where(self, mask: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode with the present seed in the environments of ``mask (n,)``."""
        seeds = [int(first) for first in self._first_seed]
        for j in np.flatnonzero(mask & (self._seeds > 0)):
            drawn = np.random.SeedSequence((seeds[j], int(self._seeds[j]))).generate_state(1)[0]
            seeds[j] = int(drawn) % MAX_SEED
        options = {} if mask.all() else {"reset_mask": mask}
        return self.env.reset(seed=seeds, options=options)  # type: ignore[arg-type]  # one each


def _send_and_receive(
    env: VectorEnv,
) -> tuple[Callable[[np.ndarray], object], Callable[[], VectorAnswer]]:
    """``send(actions)`` and ``receive()`` of an env.

    Looked up on the class, not the instance: a wrapper that forwards unknown attributes must not be
    bypassed.
    """
    for send, receive in (("send", "recv"), ("step_async", "step_wait")):
        if hasattr(type(env), send) and hasattr(type(env), receive):
            return getattr(env, send), getattr(env, receive)
    waiting: list[np.ndarray] = []
    return waiting.append, lambda: env.step(waiting.pop())


def _along(mask: np.ndarray, array: np.ndarray) -> np.ndarray:
    """``mask (n,)`` with as many axes as ``array (n, …)``."""
    return mask.reshape(-1, *[1] * (array.ndim - 1))


def _merged(info: dict[str, Any], begun: dict[str, Any], where: np.ndarray) -> dict[str, Any]:
    """``info`` with the entries ``(n,)`` of ``begun`` in the environments ``where (n,)``."""
    merged = dict(info)
    for name, values in begun.items():
        if name in info and np.shape(values)[:1] == where.shape:
            merged[name] = np.where(_along(where, np.asarray(values)), values, info[name])
    return merged
