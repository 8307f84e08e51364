"""What an update learns from: windows with their targets, which of their rows count, and n-step returns over these.

Shape legend: B = windows, P = rows of their past, K = rows of a window, H = unroll steps, S = H + 1; K is at least
S + td steps. A window starts in an episode and may run past its end; everything behind that end is masked. A = actions,
D = latent width.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lzero.config import ExperimentConfig
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import Past
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups

if TYPE_CHECKING:
    from lzero.replay.buffer import ReplayWindows


@dataclass(frozen=True)
class Batch:
    """Windows on the device, sorted by task, and what the network is to predict along them.

    Attributes:
        groups: tasks of the B windows.
        observation: ``(B, P+S, …)``, those of P steps of the past in front.
        action: ``(B, P+H)`` int64.
        missing: ``(B,)`` int64, how many of the P steps are not the window's past.
        latent: target network's latents of steps 1 … H ``(B, H, D)``.
        reward: ``(B, H)``.
        terminated: bool ``(B, H)``, the step's action ended the episode by death.
        value: n-step returns ``(B, S)``.
        policy: visit distributions ``(B, S, A)``.
        acting: bool ``(B, S)``, an action was chosen at the step: policy and value count, and its reward where H includes it.
        led_on: bool ``(B, H)``, that action also led to an observation of the same episode: the label of the prediction.
        legal: ``(B, A)`` bool.
        weight: importance weights ``(B,)``.
    """

    groups: TaskGroups
    observation: Tensor
    action: Tensor
    missing: Tensor
    latent: Tensor
    reward: Tensor
    terminated: Tensor
    value: Tensor
    policy: Tensor
    acting: Tensor
    led_on: Tensor
    legal: Tensor
    weight: Tensor

    @property
    def past(self) -> Past | None:
        """Of the windows; None where P is 0."""
        steps = self.action.shape[1] - self.latent.shape[1]
        return Past(steps, self.missing) if steps else None

    def by_task(self) -> list["Batch"]:
        """The windows of each task, ascending."""
        parts, start = [], 0
        _, sizes = np.unique(self.groups.host_task_id, return_counts=True)
        for size in sizes.tolist():
            rows = slice(start, start + size)
            tensors = [
                getattr(self, field.name)[rows] for field in fields(self) if field.name != "groups"
            ]
            parts.append(Batch(self.groups.of_one_task(rows), *tensors))
            start += size
        return parts


@torch.no_grad()
def make_batch(
    windows: "ReplayWindows",
    target: UniZeroMTModel,
    support: ScalarSupport,
    legal_actions: Tensor,
    config: ExperimentConfig,
) -> Batch:
    """Windows on the device; targets from one pass of the target network over all their frames, history included.

    Args:
        windows: of this rank, on the host.
        target: target network.
        support: of its scalars.
        legal_actions: ``(T, A)`` bool, of all tasks of the run.
        config: the experiment.
    """
    device, steps = legal_actions.device, config.policy.unroll_steps + 1
    first = config.policy.burn_in_steps
    groups = TaskGroups.of(windows.task_id, device)
    data = {}
    for name in (
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
        "reset",
        "visits",
        "weight",
        "missing",
    ):
        data[name] = getattr(windows, name).to(device, non_blocking=True)
    action, terminated, policy = data["action"], data["terminated"], data["visits"][:, :steps]
    legal = legal_actions[groups.task_id]
    latent = target.encode(data["observation"], groups)
    past = Past(first, data["missing"]) if first else None
    value_logits = target.world_model.value_logits(latent, action[:, :-1], groups, past)
    value, latent = support.expectation(value_logits), latent[:, first:]
    if config.policy.reanalyse_fraction > 0:
        # it brings numba, which `import lzero.policy` does without
        from lzero.policy.reanalyse import reanalysed_policy

        policy = reanalysed_policy(
            policy,
            target,
            support,
            config,
            latent[:, :steps],
            action[:, first : first + steps],
            groups,
            legal,
        )
    acting, observed = episode_masks(terminated, data["truncated"], data["reset"])
    returns = value_targets(
        data["reward"],
        acting,
        observed,
        value,
        discount=config.policy.discount,
        td_steps=config.policy.td_steps,
        num_steps=steps,
    )
    acting, led_on = step_masks(acting, observed, num_steps=steps)
    return Batch(
        groups=groups,
        observation=data["observation"][:, : first + steps],
        action=action[:, : first + steps - 1],
        missing=data["missing"],
        latent=latent[:, 1:steps],
        reward=data["reward"][:, : steps - 1],
        terminated=terminated[:, : steps - 1],
        value=returns,
        policy=policy,
        acting=acting,
        led_on=led_on,
        legal=legal,
        weight=data["weight"],
    )


def episode_masks(terminated: Tensor, truncated: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that belong to the episode in which a window starts.

    Args:
        terminated, truncated: bool ``(B, K)``: the row's action ended the episode by death, or by a limit.
        reset: bool ``(B, K)``: the row is a final observation, at which no action counts.

    Returns:
        ``(acting, observed)``, both bool ``(B, K)``: an action of the episode was taken at acting rows, and
        observed rows show an observation of it. A truncated episode has one observed row more than acting
        ones, its final observation; a dead one has none. Both fall from True to False at most once.
    """
    over = reset.clone()
    over[:, 1:] |= (terminated | truncated)[:, :-1]
    acting = over.cumsum(dim=1) == 0
    observed = torch.ones_like(acting)
    observed[:, 1:] = acting[:, :-1] & ~terminated[:, :-1]
    return acting, observed


def step_masks(acting: Tensor, observed: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """The masks of a :class:`Batch`, ``acting (B, S)`` and ``led_on (B, H)``, from those of :func:`episode_masks`."""
    return acting[:, :num_steps], acting[:, : num_steps - 1] & observed[:, 1:num_steps]


def value_targets(
    reward: Tensor,
    acting: Tensor,
    observed: Tensor,
    bootstrap_value: Tensor,
    *,
    discount: float,
    td_steps: int,
    num_steps: int,
) -> Tensor:
    """n-step returns ``z_t = Σ_{k<m} γ^k r_{t+k} + γ^m V(s_{t+m})`` of the first rows of each window.

    m is the number of acting rows among t … t + td_steps − 1, so a return stops with the episode. The last
    term drops where s_{t+m} is not observed: death cuts, truncation bootstraps at the final observation.

    Args:
        reward: ``(B, K)``.
        acting, observed: bool ``(B, K)`` from :func:`episode_masks`.
        bootstrap_value: ``(B, K)`` values V of every row's observation.
        discount: γ.
        td_steps: the most rewards in a return.
        num_steps: returns per window, H + 1.

    Returns:
        ``(B, num_steps)`` in the dtype of ``bootstrap_value``; meaningful where ``acting``.

    Raises:
        ValueError: if a window is too short for the last return.

    Source: MuZero (arXiv 1911.08265), appendix G.
    """
    if reward.shape[1] < num_steps + td_steps:
        needed = f"num_steps {num_steps} + td_steps {td_steps}"
        raise ValueError(
            f"windows have {reward.shape[1]} rows; {needed} are needed: sample longer windows"
        )
    powers = discount ** torch.arange(
        td_steps + 1, device=reward.device, dtype=bootstrap_value.dtype
    )
    counted = torch.where(acting, reward, 0).to(powers.dtype)
    rewards = counted.unfold(1, td_steps, 1)[:, :num_steps]  # (B, H+1, td)
    length = acting.unfold(1, td_steps, 1)[:, :num_steps].sum(dim=-1)
    end = length + torch.arange(num_steps, device=reward.device)
    bootstrap = torch.where(observed, bootstrap_value, 0).gather(1, end)
    return rewards @ powers[:-1] + powers[length] * bootstrap
