"""What an update learns from: windows with their targets, which of their rows count, and n-step returns over these.

Shape legend: B = windows, P = rows of their past, K = rows of a window, H = unroll steps, S = H + 1; K is at least
S + td steps. A window may show the end of an episode and the beginning of the next: neither sees the other. A = actions,
D = latent width.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero import checks
from lzero.config import ExperimentConfig
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import Timeline
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups

if TYPE_CHECKING:
    from lzero.replay.windows import ReplayWindows


MOVED = ("observation", "action", "reward", "terminated", "reset", "visits", "weight", "episode")
"""Fields of windows that go to the device."""


@dataclass(frozen=True)
class Batch:
    """Windows on the device, sorted by task, and what the network is to predict along them.

    Attributes:
        groups: tasks of the B windows.
        observation: ``(B, P+S, …)``, those of P steps of the past in front.
        action: ``(B, P+H)`` int64.
        episode: number of the episode of each step ``(B, P+S)`` int64.
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
    episode: Tensor
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
    def timeline(self) -> Timeline:
        """Of the windows."""
        return Timeline(self.episode, past=self.action.shape[1] - self.latent.shape[1])

    def of_one_task(self, rows: slice) -> "Batch":
        """Some windows, which all belong to one task."""
        tensors = [
            getattr(self, field.name)[rows] for field in fields(self) if field.name != "groups"
        ]
        return Batch(self.groups.of_one_task(rows), *tensors)


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
    for name in MOVED:
        data[name] = getattr(windows, name).to(device, non_blocking=True)
    action, policy, episode = data["action"], data["visits"][:, :steps], data["episode"]
    legal, acting = legal_actions[groups.task_id], ~data["reset"]
    latent, timeline = target.encode(data["observation"], groups), Timeline(episode, first)
    value_logits = target.world_model.value_logits(latent, action[:, :-1], groups, timeline)
    if config.policy.reanalyse_fraction > 0:
        # it brings numba, which `import lzero.policy` does without
        from lzero.policy.reanalyse import reanalysed_policy

        policy = reanalysed_policy(
            policy,
            target,
            support,
            config,
            latent[:, : first + steps],
            action[:, : first + steps],
            Timeline(episode[:, : first + steps], first),
            groups,
            legal,
        )
    returns = value_targets(
        data["reward"],
        acting,
        episode[:, first:],
        support.expectation(value_logits),
        discount=config.policy.discount,
        td_steps=config.policy.td_steps,
        num_steps=steps,
    )
    episode, acting = episode[:, : first + steps], acting[:, :steps]
    return Batch(
        groups=groups,
        observation=data["observation"][:, : first + steps],
        action=action[:, : first + steps - 1],
        episode=episode,
        latent=latent[:, first + 1 : first + steps],
        reward=data["reward"][:, : steps - 1],
        terminated=data["terminated"][:, : steps - 1],
        value=returns,
        policy=policy,
        acting=acting,
        led_on=acting[:, :-1] & (episode[:, first:-1] == episode[:, first + 1 :]),
        legal=legal,
        weight=data["weight"],
    )


def value_targets(
    reward: Tensor,
    acting: Tensor,
    episode: Tensor,
    bootstrap_value: Tensor,
    *,
    discount: float,
    td_steps: int,
    num_steps: int,
) -> Tensor:
    """n-step returns ``z_t = Σ_{k<m} γ^k r_{t+k} + γ^m V(s_{t+m})`` of the first rows of each window.

    m is the number of acting rows of t's episode among t … t + td_steps − 1, so a return stops with the episode.
    The last term drops where s_{t+m} is of another one: death cuts, truncation bootstraps at the final observation.

    Args:
        reward: ``(B, K)``.
        acting: bool ``(B, K)``, an action was taken at the row.
        episode: number of the row's episode ``(B, K)``, not decreasing.
        bootstrap_value: ``(B, K)`` values V of every row's observation.
        discount: γ.
        td_steps: the most rewards in a return.
        num_steps: returns per window, H + 1.

    Returns:
        ``(B, num_steps)`` in the dtype of ``bootstrap_value``; meaningful where ``acting``.

    Raises:
        ValueError: if a window is too short for the last return, shapes differ, or a number is out of range.

    Source: MuZero (arXiv 1911.08265), appendix G.
    """
    for name, rows in (("reward", reward), ("acting", acting), ("episode", episode)):
        checks.shape(name, rows, *bootstrap_value.shape)
    checks.flags("acting", acting)
    checks.number("discount", discount, 0.0, 1.0)
    td_steps, num_steps = checks.count("td_steps", td_steps), checks.count("num_steps", num_steps)
    if reward.shape[1] < num_steps + td_steps:
        needed = f"num_steps {num_steps} + td_steps {td_steps}"
        raise ValueError(
            f"windows have {reward.shape[1]} rows; {needed} are needed: sample longer windows"
        )
    powers = discount ** torch.arange(
        td_steps + 1, device=reward.device, dtype=bootstrap_value.dtype
    )
    same_episode = episode.unfold(1, td_steps + 1, 1)[:, :num_steps]  # (B, H+1, td+1)
    same_episode = same_episode == same_episode[..., :1]
    counted = acting.unfold(1, td_steps, 1)[:, :num_steps] & same_episode[..., :-1]
    rewards = reward.to(powers.dtype).unfold(1, td_steps, 1)[:, :num_steps]
    length = counted.sum(dim=-1, keepdim=True)
    values = bootstrap_value.unfold(1, td_steps + 1, 1)[:, :num_steps]
    bootstrap = torch.where(same_episode, values, 0).gather(-1, length)[..., 0]
    return torch.where(counted, rewards, 0) @ powers[:-1] + powers[length[..., 0]] * bootstrap
