"""Health of acting: does the search improve on the network, and does the network predict what then
happens?

All sums run over env steps as they are played, in numpy over all environments at once; nothing is
stored per step.

Shape legend: N = environments, T = tasks of the run, A = actions.
"""

from dataclasses import dataclass, fields

import numpy as np

from lzero.envs.multitask import EnvStep
from lzero.worker.actor import Decision


@dataclass
class HealthSums:
    """Sums per task ``(T,)`` since they were last taken; they add up over ranks.

    ``returns`` count steps of finished segments alone, see :class:`HealthMonitor`; the rest counts
    every step.
    """

    steps: np.ndarray
    search_kl: np.ndarray
    search_entropy: np.ndarray
    prior_entropy: np.ndarray
    reward_predicted: np.ndarray
    reward_realised: np.ndarray
    reward_error: np.ndarray
    return_steps: np.ndarray
    value_predicted: np.ndarray
    value_realised: np.ndarray

    @classmethod
    def zeros(cls, num_tasks: int) -> "HealthSums":
        """Nothing counted yet."""
        return cls(*np.zeros((len(fields(cls)), num_tasks)))

    def stack(self) -> np.ndarray:
        """``(number of sums, T)``, for a reduction over ranks."""
        return np.stack([getattr(self, field.name) for field in fields(self)])

    def metrics(self, games: tuple[str, ...]) -> dict[str, float]:
        """Means per step as ``health/{name}/{game}``; what was not observed is left out."""
        metrics = {}
        for task, game in enumerate(games):
            if self.steps[task]:
                for name in (
                    "search_kl",
                    "search_entropy",
                    "prior_entropy",
                    "reward_predicted",
                    "reward_realised",
                    "reward_error",
                ):
                    metrics[f"health/{name}/{game}"] = getattr(self, name)[task] / self.steps[task]
            if self.return_steps[task]:
                for name in ("value_predicted", "value_realised"):
                    metrics[f"health/{name}/{game}"] = (
                        getattr(self, name)[task] / self.return_steps[task]
                    )
        return metrics


class HealthMonitor:
    """Watches N environments while they are played.

    A segment is what the value predicts: it ends where the value ends, at a death (or at a lost
    life, where that ends an episode for learning). For finished segments the mean of the network's
    values is compared with the mean of the discounted returns that followed. Segments that a time
    limit cuts have no known return and are left out.

    Args:
        task_id: ``(N,)`` int64.
        num_tasks: T.
        discount: γ per env step.
    """

    def __init__(self, task_id: np.ndarray, num_tasks: int, discount: float) -> None:
        self.task_id, self.num_tasks, self.discount = task_id, num_tasks, discount
        self.sums = HealthSums.zeros(num_tasks)
        self._length, self._weight, self._value, self._return = np.zeros((4, len(task_id)))

    def add(self, decision: Decision, step: EnvStep) -> None:
        """Count the step that ``decision`` led to; rows that only reset do not count."""
        acted = ~step.reset
        sums, log_prior = self.sums, _log(decision.prior)
        predicted, realised = decision.reward, step.reward
        for total, values in (
            (sums.steps, np.ones(len(acted))),
            (sums.search_kl, (decision.policy * (_log(decision.policy) - log_prior)).sum(axis=1)),
            (sums.search_entropy, -(decision.policy * _log(decision.policy)).sum(axis=1)),
            (sums.prior_entropy, -(decision.prior * log_prior).sum(axis=1)),
            (sums.reward_predicted, predicted),
            (sums.reward_realised, realised),
            (sums.reward_error, np.abs(predicted - realised)),
        ):
            self._add_per_task(total, values, acted)
        self._follow_segments(decision.network_value, step, acted)

    def take(self) -> HealthSums:
        """The sums since the last call."""
        taken, self.sums = self.sums, HealthSums.zeros(self.num_tasks)
        return taken

    def _follow_segments(self, value: np.ndarray, step: EnvStep, acted: np.ndarray) -> None:
        """Σ_t G_t of a segment grows with each reward r_k by r_k·Σ_{t≤k} γ^{k−t}: no step needs to
        be kept.
        """
        self._length += acted
        self._weight = np.where(acted, 1 + self.discount * self._weight, self._weight)
        self._value += np.where(acted, value, 0.0)
        self._return += np.where(acted, self._weight * step.reward, 0.0)
        died = acted & step.terminated
        for total, values in (
            (self.sums.return_steps, self._length),
            (self.sums.value_predicted, self._value),
            (self.sums.value_realised, self._return),
        ):
            self._add_per_task(total, values, died)
        over = died | step.episode_over | step.reset
        for running in (self._length, self._weight, self._value, self._return):
            running[over] = 0.0

    def _add_per_task(self, total: np.ndarray, values: np.ndarray, where: np.ndarray) -> None:
        total += np.bincount(self.task_id[where], weights=values[where], minlength=self.num_tasks)


def _log(probability: np.ndarray) -> np.ndarray:
    """log p of float32 probabilities, finite also where p has become 0."""
    return np.log(np.maximum(probability, np.finfo(np.float32).tiny))
