"""Which rows of a replay window count, and the n-step value targets over them.

Shape legend: B = windows, K = rows of a window, H = unroll steps; K is at least H + 1 + td steps. A window
starts in an episode and may run past its end; everything behind that end is masked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepMasks:
    """Steps that enter each loss; bool."""

    reward: Tensor
    """``(B, H)``: an action was taken at step t, so its reward is known."""
    latent: Tensor
    """``(B, H)``: that action also led to an observation of the same episode, the label of the prediction."""
    policy: Tensor
    """``(B, H+1)``: the search at step t chose an action."""
    value: Tensor
    """``(B, H+1)``: step t has a return."""


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


def step_masks(acting: Tensor, observed: Tensor, num_steps: int) -> StepMasks:
    """Loss masks of the first ``num_steps`` = H + 1 rows of ``(B, K)`` masks from :func:`episode_masks`."""
    acting, observed = acting[:, :num_steps], observed[:, :num_steps]
    unrolled = acting[:, :-1]
    return StepMasks(reward=unrolled, latent=unrolled & observed[:, 1:], policy=acting, value=acting)


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
        raise ValueError(f"windows have {reward.shape[1]} rows; {needed} are needed: sample longer windows")
    powers = discount ** torch.arange(td_steps + 1, device=reward.device, dtype=bootstrap_value.dtype)
    counted = torch.where(acting, reward, 0).to(powers.dtype)
    rewards = counted.unfold(1, td_steps, 1)[:, :num_steps]  # (B, H+1, td)
    length = acting.unfold(1, td_steps, 1)[:, :num_steps].sum(dim=-1)
    end = length + torch.arange(num_steps, device=reward.device)
    bootstrap = torch.where(observed, bootstrap_value, 0).gather(1, end)
    return rewards @ powers[:-1] + powers[length] * bootstrap
