"""Health of acting: does the search improve on the network, and does the network predict what then
happens?

All sums run over env steps as they are played, in numpy over all environments at once; nothing is
stored per step.

Shape legend: N = environments, T = tasks of the run, A = actions.
"""

from dataclasses import dataclass, fields

import numpy as np

from lzero import checks, tags
from lzero.envs.multitask import EnvStep
from lzero.worker.actor import Decision

STEP_MEANS = (
    "search_kl",
    "search_entropy",
    "prior_entropy",
    "reward_predicted",
    "reward_realised",
    "reward_error",
)
HALF_A_POINT = 0.5


@dataclass
class SegmentSums:
    """Sums over the steps t ≤ k of the segment that each environment is in ``(N,)``.

    Attributes:
        length: steps.
        value: values v_t that the network predicted; ``value_square`` their squares.
        returns: discounted returns G_t of the rewards up to now; ``return_square`` their squares,
            ``product`` those of v_t and G_t.
        faded: γ^{k−t}; ``faded_square`` its squares, ``faded_value`` and ``faded_return`` v_t and
            G_t times it.
    """

    length: np.ndarray
    value: np.ndarray
    value_square: np.ndarray
    returns: np.ndarray
    return_square: np.ndarray
    product: np.ndarray
    faded: np.ndarray
    faded_square: np.ndarray
    faded_value: np.ndarray
    faded_return: np.ndarray


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
    reward_predicted_square: np.ndarray
    reward_realised_square: np.ndarray
    reward_product: np.ndarray
    rewarded: np.ndarray
    foretold: np.ndarray
    rightly_foretold: np.ndarray
    return_steps: np.ndarray
    value_predicted: np.ndarray
    value_realised: np.ndarray
    value_predicted_square: np.ndarray
    value_realised_square: np.ndarray
    value_product: np.ndarray

    @classmethod
    def zeros(cls, num_tasks: int) -> "HealthSums":
        """Nothing counted yet."""
        return cls(*np.zeros((len(fields(cls)), num_tasks)))

    def stack(self) -> np.ndarray:
        """``(number of sums, T)``, for a reduction over ranks."""
        return np.stack([getattr(self, field.name) for field in fields(self)])

    def metrics(self, games: tuple[str, ...]) -> dict[str, float]:
        """Means per step as ``health/{name}/{game}``; what was not observed is left out.

        Where most steps have no reward, to predict none is nearly right and worth nothing: recall is
        the share of the rewards that were foretold, precision that of what was foretold that came.
        """
        found = {
            "reward_recall": _share(self.rightly_foretold, self.rewarded),
            "reward_precision": _share(self.rightly_foretold, self.foretold),
            "reward_correlation": self._correlation("reward", self.steps),
            "value_correlation": self._correlation("value", self.return_steps),
        }
        for name in STEP_MEANS:
            found[name] = _share(getattr(self, name), self.steps)
        for name in ("value_predicted", "value_realised"):
            found[name] = _share(getattr(self, name), self.return_steps)
        metrics = {}
        for task, game in enumerate(games):
            for name, values in found.items():
                if np.isfinite(values[task]):
                    metrics[tags.of_game(f"{tags.HEALTH}{name}", game)] = float(values[task])
        return metrics

    def _correlation(self, what: str, number: np.ndarray) -> np.ndarray:
        """Pearson's of the predicted and the realised ``(T,)``; NaN where one of them does not vary."""
        predicted, realised, predicted_square, realised_square, product = (
            _share(getattr(self, f"{what}_{name}"), number)
            for name in (
                "predicted",
                "realised",
                "predicted_square",
                "realised_square",
                "product",
            )
        )
        variance = (predicted_square - predicted**2) * (realised_square - realised**2)
        # below this it is rounding
        varies = variance > 1e-12 * predicted_square * realised_square
        return np.where(
            varies,
            (product - predicted * realised) / np.sqrt(np.where(varies, variance, 1.0)),
            np.nan,
        )


class HealthMonitor:
    """Watches N environments while they are played.

    A reward is foretold where the prediction goes beyond half a point to the side of the reward that
    comes: rewards of games, clipped ones too, are whole points.

    A segment is what the value predicts: it ends where the value ends, at a death (or at a lost
    life, where that ends an episode for learning). For finished segments the network's values are
    compared with the discounted returns that followed. Segments that a time
    limit cuts have no known return and are left out.

    Args:
        task_id: ``(N,)`` int64.
        num_tasks: T.
        discount: γ per env step.

    Raises:
        ValueError: if a task is none of them, or ``discount`` is not from 0 to 1.
    """

    def __init__(self, task_id: np.ndarray, num_tasks: int, discount: float) -> None:
        self.task_id, self.num_tasks = checks.tasks("task_id", task_id, num_tasks), num_tasks
        self.discount = checks.number("discount", discount, 0.0, 1.0)
        self.sums = HealthSums.zeros(num_tasks)
        # of the segment that each environment is in
        self._segment = SegmentSums(*np.zeros((len(fields(SegmentSums)), len(task_id))))

    def add(self, decision: Decision, step: EnvStep, scale: np.ndarray | None = None) -> None:
        """Count the step that ``decision`` led to; rows that only reset do not count.

        ``scale (N,)`` is what the network's rewards and values were divided by, if they were.
        """
        acted = ~step.reset
        if scale is None:
            scale = np.ones(len(acted))
        sums, log_prior = self.sums, _log(decision.prior)
        predicted, realised = decision.reward * scale, step.reward
        foretold = np.sign(predicted) * (np.abs(predicted) > HALF_A_POINT)
        for total, values in (
            (sums.steps, np.ones(len(acted))),
            (sums.search_kl, (decision.policy * (_log(decision.policy) - log_prior)).sum(axis=1)),
            (sums.search_entropy, -(decision.policy * _log(decision.policy)).sum(axis=1)),
            (sums.prior_entropy, -(decision.prior * log_prior).sum(axis=1)),
            (sums.reward_predicted, predicted),
            (sums.reward_realised, realised),
            (sums.reward_error, np.abs(predicted - realised)),
            (sums.reward_predicted_square, predicted**2),
            (sums.reward_realised_square, realised**2),
            (sums.reward_product, predicted * realised),
            (sums.rewarded, realised != 0),
            (sums.foretold, foretold != 0),
            (sums.rightly_foretold, foretold * realised > 0),
        ):
            self._add_per_task(total, values, acted)
        self._follow_segments(decision.network_value * scale, step, acted)

    def take(self) -> HealthSums:
        """The sums since the last call."""
        taken, self.sums = self.sums, HealthSums.zeros(self.num_tasks)
        return taken

    def state(self) -> dict[str, np.ndarray]:
        """What :meth:`load` goes on from."""
        segment = [getattr(self._segment, field.name) for field in fields(SegmentSums)]
        return {"sums": self.sums.stack(), "segment": np.stack(segment)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self.sums = HealthSums(*state["sums"].copy())
        self._segment = SegmentSums(*state["segment"].copy())

    def _follow_segments(self, value: np.ndarray, step: EnvStep, acted: np.ndarray) -> None:
        """Add up a segment's values and returns as its rewards come; no step needs to be kept.

        With the reward r_k every G_t of the segment, t ≤ k, grows by γ^{k−t}·r_k. So Σ G_t grows by
        r_k·Σ γ^{k−t}, Σ v_t·G_t by r_k·Σ γ^{k−t}·v_t, and Σ G_t² by 2·r_k·Σ γ^{k−t}·G_t +
        r_k²·Σ γ^{2(k−t)}; the sums over t with powers of γ follow from step to step.
        """
        now, gamma = self._segment, self.discount
        value = np.where(acted, value, 0.0).astype(np.float64)
        reward = np.where(acted, step.reward, 0.0).astype(np.float64)
        now.faded = acted + gamma * now.faded
        now.faded_square = acted + gamma**2 * now.faded_square
        now.faded_value = value + gamma * now.faded_value
        now.faded_return = gamma * now.faded_return  # of the returns without this reward
        now.length += acted
        now.value += value
        now.value_square += value**2
        now.returns += reward * now.faded
        now.product += reward * now.faded_value
        now.return_square += 2 * reward * now.faded_return + reward**2 * now.faded_square
        now.faded_return += reward * now.faded_square
        died, sums = acted & step.terminated, self.sums
        for total, values in (
            (sums.return_steps, now.length),
            (sums.value_predicted, now.value),
            (sums.value_realised, now.returns),
            (sums.value_predicted_square, now.value_square),
            (sums.value_realised_square, now.return_square),
            (sums.value_product, now.product),
        ):
            self._add_per_task(total, values, died)
        over = died | step.episode_over | step.reset
        for field in fields(now):
            getattr(now, field.name)[over] = 0.0

    def _add_per_task(self, total: np.ndarray, values: np.ndarray, where: np.ndarray) -> None:
        total += np.bincount(self.task_id[where], weights=values[where], minlength=self.num_tasks)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``; NaN where the whole is nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _log(probability: np.ndarray) -> np.ndarray:
    """log p of float32 probabilities, finite also where p has become 0."""
    return np.log(np.maximum(probability, np.finfo(np.float32).tiny))
