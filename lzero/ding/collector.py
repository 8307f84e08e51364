"""Collecting through an environment manager of DI-engine into our replay ring.

A manager gives back whatever is ready, a ring takes one row of every environment at a time. Steps wait in a queue of their
environment until each has one. DI-engine has no row for the final observation of an episode; it is written here, as the ring
and the targets expect it (``reset`` rows, see ``lzero/replay/buffer.py``).

Shape legend: N = environments, A = actions.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lzero import checks
from lzero.envs.multitask import EnvStep
from lzero.replay.buffer import ReplayBuffer
from lzero.worker.collector import Collected, EpisodeCounter
from lzero.worker.return_scale import ReturnScale

MOST_AHEAD = 64
"""Steps by which an environment may be ahead of the slowest one before it waits: longer than the reset of one takes, and little
memory."""
MOST_WAITING = 10.0  # seconds for a reset to end before its environment is closed all the same
PAUSE = 0.001  # seconds until a manager is asked again that has nothing ready; DI-engine's own


@dataclass(frozen=True)
class _Row:
    """A row of one environment's ring, and what counters are told of it."""

    observation: np.ndarray
    action: int
    reward: float
    raw_reward: float
    terminated: bool
    truncated: bool
    over: bool
    reset: bool
    policy: np.ndarray
    value: float


class ManagedCollector:
    """Plays the environments of a manager with a policy's ``collect_mode`` and fills a replay ring.

    Args:
        manager: launched, of DI-engine; number i is ring i of ``replay``. It must reset by itself, and not in place: the final
            observation would be lost.
        collect_mode: ``forward`` and ``reset`` of a policy.
        replay: receives the rows.
        legal: legal actions ``(N, A)`` bool.
        return_scale: is told the rewards; None where they are not scaled.

    Raises:
        ValueError: for another number of environments, or a manager that resets in place or not at all.
    """

    def __init__(
        self,
        manager: Any,
        collect_mode: Any,
        replay: ReplayBuffer,
        legal: np.ndarray,
        return_scale: ReturnScale | None = None,
    ) -> None:
        if manager.env_num != replay.num_rings:
            raise ValueError(
                f"manager has {manager.env_num} environments, replay {replay.num_rings} rings: allowed is one for each"
            )
        checks.shape("legal", legal, replay.num_rings, replay.num_actions)
        settings = manager._cfg
        if settings.get("reset_inplace", False) or not settings.get("auto_reset", True):
            raise ValueError(
                "manager: reset_inplace must be False and auto_reset True, or final observations are lost"
            )
        self._manager, self._mode, self.replay, self._legal = manager, collect_mode, replay, legal
        self._return_scale = return_scale
        self._counter = EpisodeCounter(replay.task_id_of_ring)
        self._queues: list[deque[_Row]] = [deque() for _ in range(replay.num_rings)]
        self._sent: dict[int, tuple[np.ndarray, Mapping[str, Any]]] = {}  # answers under way
        probability = legal / legal.sum(axis=1, keepdims=True)
        self._uniform = probability.astype(np.float32)

    def collect(self, num_steps: int, *, random: bool = False) -> Collected:
        """Play until ``num_steps`` more rows of every environment are in the ring, at random or by search.

        Raises:
            RuntimeError: if an environment has failed.
            ValueError: if ``num_steps`` is negative.
        """
        checks.count("num_steps", num_steps, 0)
        rings = self.replay.num_rings
        collected = Collected([], np.zeros(rings), np.zeros(rings, np.int64))
        end = self.replay.head + num_steps
        while self.replay.head < end:
            while self.replay.head < end and all(self._queues):
                self._append(collected)
            if self.replay.head < end:
                self._step(random)
        return collected

    def _step(self, random: bool) -> None:
        ready = self._ready()
        decisions = self._mode.forward(ready, random=random)
        actions = {}
        for number, decision in decisions.items():
            actions[number] = decision["action"]
            self._sent[number] = (ready[number], decision)
        for number, timestep in _stepped(self._manager, actions).items():
            self._take(number, timestep)

    def _ready(self) -> dict[int, np.ndarray]:
        """Observations of the environments that act next."""
        while True:
            ready = ready_observations(self._manager)
            near = {n: seen for n, seen in ready.items() if len(self._queues[n]) < MOST_AHEAD}
            if near or ready:
                return near or ready
            time.sleep(PAUSE)

    def _take(self, number: int, timestep: Any) -> None:
        """Queue what an environment has answered."""
        if timestep.info.get("abnormal", False):
            raise RuntimeError(f"environment {number} of the manager has failed; its log says why")
        observation, decision = self._sent.pop(number)
        info, over = timestep.info, bool(timestep.done)
        queue = self._queues[number]
        queue.append(
            _Row(
                observation,
                int(decision["action"]),
                float(np.asarray(timestep.reward).reshape(())),
                float(info["raw_reward"]),
                bool(info["terminated"]),
                bool(info["truncated"]),
                over,
                False,
                decision["policy"],
                decision["value"],
            )
        )
        if over:  # nothing is learned from what was thought of the final observation: none is asked
            final, action = np.asarray(timestep.obs), int(self._legal[number].argmax())
            policy = self._uniform[number]
            queue.append(_Row(final, action, 0.0, 0.0, False, False, False, True, policy, 0.0))
        if over or info["terminated"]:
            self._mode.reset([number])

    def _append(self, collected: Collected) -> None:
        """Move one row of every queue into the ring, and count it."""
        rows = [queue.popleft() for queue in self._queues]
        observation = np.stack([row.observation for row in rows])
        terminated = np.array([row.terminated for row in rows])
        truncated = np.array([row.truncated for row in rows])
        reset = np.array([row.reset for row in rows])
        reward = np.array([row.reward for row in rows], np.float32)
        self.replay.append(
            observation=observation,
            action=np.array([row.action for row in rows]),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            reset=reset,
            visits=np.stack([row.policy for row in rows]),
            root_value=np.array([row.value for row in rows], np.float32),
        )
        step = EnvStep(
            observation=observation,
            reward=reward,
            raw_reward=np.array([row.raw_reward for row in rows], np.float32),
            terminated=terminated,
            truncated=truncated,
            episode_over=np.array([row.over for row in rows]),
            reset=reset,
        )
        if self._return_scale is not None:
            self._return_scale.add(step)
        collected.episodes.append(self._counter.add(step))
        collected.reward[:] += step.raw_reward
        collected.steps[:] += ~reset


def ready_observations(manager: Any) -> dict[int, np.ndarray]:
    """Observations by number of the environments that can act now; of managers of both kinds, with and without ``_v2``.

    A manager with ``_v2`` gives observations without numbers, and numbers by a second question; an environment whose reset
    ends in between would get the action of another one. It is asked when all are ready.
    """
    if not _is_v2(manager):
        return {number: np.asarray(seen) for number, seen in manager.ready_obs.items()}
    while len(manager.ready_obs_id) < manager.env_num:
        time.sleep(PAUSE)
    return dict(enumerate(np.asarray(manager.ready_obs)))


def close_manager(manager: Any) -> None:
    """Close a manager when its environments have come back from their resets, or after ``MOST_WAITING`` seconds.

    DI-engine resets subprocesses in threads of their own; a close meanwhile talks on the same pipes, and they break.
    """
    end = time.monotonic() + MOST_WAITING
    while not manager.closed and len(manager.ready_obs_id) < manager.env_num:
        if time.monotonic() > end:  # some have failed
            break
        time.sleep(PAUSE)
    manager.close()


def _stepped(manager: Any, actions: Mapping[int, Any]) -> dict[int, Any]:
    """What a manager of either kind answers, by number."""
    if not _is_v2(manager):
        return manager.step(dict(actions))
    answers = {}
    for answer in manager.step(list(actions.values())):
        answers[int(answer.env_id)] = _Timestep(
            np.asarray(answer.obs), answer.reward, bool(answer.done), dict(answer.info.items())
        )
    return answers


def _is_v2(manager: Any) -> bool:
    return type(manager).__name__.endswith("V2")


@dataclass(frozen=True)
class _Timestep:
    """What one environment of a ``_v2`` manager answers."""

    obs: np.ndarray
    reward: np.ndarray
    done: bool
    info: dict[str, Any]
