"""How large a game's returns are: rewards are divided by it, so that games of any scale fit one support.

Shape legend: N = environments, T = tasks of the run, B = windows, K = rows of a window.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from lzero import checks
from lzero.envs.multitask import EnvStep
from lzero.replay.windows import ReplayWindows


class ReturnScale:
    """Standard deviation of each game's discounted rewards over all its env steps so far.

    What is looked at is the sum of the rewards up to a step, the older ones discounted: it is known at every step and spreads
    as returns do. Returns that spread less than by 1 are left as they are: they fit, and a game's first rewards would
    otherwise become huge.

    Args:
        task_id: ``(N,)`` int64.
        num_tasks: T.
        discount: γ per env step.

    Raises:
        ValueError: if a task is none of them, or ``discount`` is not from 0 to 1.

    Source: the reward scaling of gymnasium's and Stable-Baselines3's ``VecNormalize``, per task.
    """

    def __init__(self, task_id: np.ndarray, num_tasks: int, discount: float) -> None:
        self.task_id = checks.tasks("task_id", task_id, num_tasks)
        self.discount = checks.number("discount", discount, 0.0, 1.0)
        self._sums = np.zeros((3, num_tasks))  # of all ranks: steps, discounted rewards, squares
        self._new = np.zeros((3, num_tasks))  # of this rank since they were last taken
        self._faded = np.zeros(len(task_id))

    def add(self, step: EnvStep) -> None:
        """Count a step of every environment; rows that only reset do not count."""
        acted = ~step.reset
        self._faded = acted * (self.discount * self._faded + step.reward)
        for total, values in zip(
            self._new, (acted.astype(float), self._faded, self._faded**2), strict=True
        ):
            np.add.at(total, self.task_id, values)
        self._faded[step.terminated | step.episode_over] = 0.0

    def take(self) -> np.ndarray:
        """What this rank has counted since the last call ``(3, T)``, for a sum over ranks."""
        taken, self._new = self._new, np.zeros_like(self._new)
        return taken

    def take_in(self, sums: np.ndarray) -> None:
        """Let the scales follow what all ranks have taken."""
        self._sums += sums

    def by_task(self) -> np.ndarray:
        """The scales ``(T,)``, at least 1; 1 where nothing has been seen."""
        number, total, squares = self._sums
        number = np.maximum(number, 1.0)
        return np.sqrt(np.maximum(squares / number - (total / number) ** 2, 1.0))

    def by_env(self) -> np.ndarray:
        """The scale of each environment's game ``(N,)``."""
        return self.by_task()[self.task_id]

    def applied_to(self, windows: ReplayWindows) -> ReplayWindows:
        """The windows with rewards ``(B, K)`` divided by the scales of their games."""
        scale = torch.from_numpy(self.by_task().astype(np.float32))
        return replace(windows, reward=windows.reward / scale[windows.task_id][:, None])

    def totals(self) -> list[list[float]]:
        """What a checkpoint keeps of all ranks, for JSON."""
        return self._sums.tolist()

    def set_totals(self, totals: Sequence[Sequence[float]]) -> None:
        """Go on from :meth:`totals`; ValueError if they are of other tasks."""
        if np.shape(totals) != self._sums.shape:
            raise ValueError(
                f"totals has shape {np.shape(totals)}: allowed is {self._sums.shape}, of these tasks"
            )
        self._sums[:] = totals

    def state(self) -> dict[str, np.ndarray]:
        """What :meth:`load` goes on from, of this rank's environments."""
        return {"new": self._new, "faded": self._faded}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on in the episodes of :meth:`state`."""
        self._new, self._faded = state["new"].copy(), state["faded"].copy()
