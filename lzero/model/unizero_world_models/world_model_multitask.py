"""The multi-task world model: tokens in, predictions out. Its two calls for tree search are in ``search_steps.py``.

A sequence reads ``[z_0, a_0, z_1, a_1, …]``. At a latent token the model predicts policy and value, at an action token
reward and next latent (UniZero, arXiv 2406.10667), and whether the action ends the episode: no latent follows a death, so
the value of what is imagined behind it means nothing.

Shape legend: B = windows, S = steps, P = steps of a past, D = model width, A = actions, V = support bins, R = register tokens,
L = tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero.config import ModelConfig
from lzero.model.unizero_world_models.transformer import Transformer
from lzero.nn.attention import mask_within, positions_within, windowed_causal_mask
from lzero.nn.balance import BalanceSums
from lzero.nn.heads import Head
from lzero.nn.tasks import TaskGroups

MAX_POSITIONS = 4096
RARE = -5.0  # logit of a termination before anything is learned


@dataclass(frozen=True)
class WorldModelOutput:
    """Predictions for windows of S latents; all in fp32.

    Attributes:
        policy: logits at the latent tokens ``(B, S, A)``.
        value: logits at the latent tokens ``(B, S, V)``.
        reward: logits at the action tokens ``(B, S−1, V)``.
        termination: logits at the action tokens ``(B, S−1)``: the action ends the episode, or costs a life that counts.
        next_latent: unnormalised prediction at the action tokens ``(B, S−1, D)``.
        balance: sums of the balance loss for every mixture-of-experts layer, None where there is none.
    """

    policy: Tensor
    value: Tensor
    reward: Tensor
    termination: Tensor
    next_latent: Tensor
    balance: BalanceSums | None


@dataclass(frozen=True)
class Timeline:
    """What belongs together in windows: steps see those of their own episode.

    Attributes:
        episode: number of each step's episode ``(B, P+S)``.
        past: P, steps in front that are seen but not predicted for.
    """

    episode: Tensor
    past: int = 0

    def present(self) -> "Timeline":
        """Without the past."""
        return Timeline(self.episode[:, self.past :])


class WorldModel(nn.Module):
    """Token embeddings, transformer and heads.

    Args:
        config: model section of the experiment.
        num_tasks: T.
        num_actions: A, the padded action set.
    """

    def __init__(self, config: ModelConfig, num_tasks: int, num_actions: int) -> None:
        super().__init__()
        self.config = config
        self.num_tasks = num_tasks
        dim = config.embed_dim
        self.transformer = Transformer(config, num_tasks, MAX_POSITIONS)
        self.action_embedding = nn.Embedding(num_actions, dim)
        self.task_embedding = (
            nn.Embedding(num_tasks, dim) if config.task_embedding in ("add", "concat") else None
        )
        self.join_task = nn.Linear(2 * dim, dim) if config.task_embedding == "concat" else None
        registers = self.transformer.num_registers
        self.registers = (
            nn.Parameter(0.02 * torch.randn(num_tasks, registers, dim)) if registers else None
        )
        sets = 1 if config.share_head else num_tasks
        self.policy_head = Head(dim, num_actions, sets)
        self.value_head = Head(dim, config.support_bins, sets)
        self.reward_head = Head(
            dim, config.support_bins + 1, sets
        )  # the last output is the termination
        nn.init.constant_(self.reward_head.bias2[..., -1], RARE)
        # Zero only as a change: the layer norm that follows has no usable gradient at a vector of zeros.
        self.latent_head = Head(dim, dim, sets, zero_init=config.residual_latent)

    @property
    def heads(self) -> dict[str, Head]:
        """The heads by name."""
        return {
            "policy": self.policy_head,
            "value": self.value_head,
            "reward": self.reward_head,
            "latent": self.latent_head,
        }

    def work_of_expansion(self) -> int:
        """Multiplications for one row of a search's expansion, those of attention's scores aside."""
        dim, work = self.config.embed_dim, 0
        for block in self.transformer.blocks:
            work += 2 * (
                4 * dim**2 + block.feed_forward.work_of_token()
            )  # an action and a latent token
        for head in self.heads.values():
            work += dim**2 + dim * head.weight2.shape[-1]
        return work

    def forward(
        self, latent: Tensor, action: Tensor, groups: TaskGroups, timeline: Timeline | None = None
    ) -> WorldModelOutput:
        """Predict along whole windows, teacher-forced.

        Args:
            latent: encoded observations ``(B, P+S, D)``.
            action: actions between them ``(B, P+S−1)`` int64.
            groups: tasks of the B rows.
            timeline: of the P+S steps; None where each window is of one episode and P is 0.
        """
        hidden, balance = self._run_window(latent, action, groups, timeline)
        at_latent, at_action = hidden[:, 0::2], hidden[:, 1::2]
        outcome = self.reward_head(at_action, groups)
        next_latent = self.latent_head(at_action, groups)
        if self.config.residual_latent:
            # without gradient: the loss must not make one latent like the next
            next_latent = next_latent + latent[:, -at_latent.shape[1] : -1].detach()
        return WorldModelOutput(
            policy=self.policy_head(at_latent, groups),
            value=self.value_head(at_latent, groups),
            reward=outcome[..., :-1],
            termination=outcome[..., -1],
            next_latent=next_latent,
            balance=balance,
        )

    def value_logits(
        self, latent: Tensor, action: Tensor, groups: TaskGroups, timeline: Timeline | None = None
    ) -> Tensor:
        """The value logits ``(B, S, V)`` of :meth:`forward` alone; arguments as there."""
        hidden, _ = self._run_window(latent, action, groups, timeline)
        return self.value_head(hidden[:, 0::2], groups)

    def _run_window(
        self, latent: Tensor, action: Tensor, groups: TaskGroups, timeline: Timeline | None
    ) -> tuple[Tensor, BalanceSums | None]:
        """:meth:`run` on windows, by their timeline; outputs of the S steps alone ``(B, 2S−1, D)``."""
        if timeline is None:
            return self.run(latent, action, groups)
        registers, window = self.transformer.num_registers, self.transformer.window
        part = timeline.episode.repeat_interleave(2, dim=1)[:, :-1]  # latent and action of a step
        part = F.pad(part, (registers, 0))
        causal = windowed_causal_mask(part.shape[1], window, registers, device=latent.device)
        mask = mask_within(causal, part, registers)
        position = positions_within(part, registers) if registers else None
        hidden, balance = self.run(latent, action, groups, position=position, mask=mask)
        return hidden[:, 2 * timeline.past :], balance

    def run(
        self,
        latent: Tensor,
        action: Tensor,
        groups: TaskGroups,
        *,
        position: Tensor | None = None,
        mask: Tensor | None = None,
        slabs: list[Tensor] | None = None,
    ) -> tuple[Tensor, BalanceSums | None]:
        """Transformer over latents ``(B, S, D)`` and the actions ``(B, S−1)`` between them.

        Register tokens stand in front, and their outputs are dropped: ``(B, 2S−1, D)`` comes back. The rest is as of
        :meth:`Transformer.forward`.
        """
        at_latent = self.embed(latent, groups.task_id)
        at_action = self.embed(self.action_embedding(action), groups.task_id)
        tokens = at_latent.new_empty(len(latent), 2 * latent.shape[1] - 1, latent.shape[-1])
        tokens[:, 0::2] = at_latent
        tokens[:, 1::2] = at_action
        if self.registers is not None:
            tokens = torch.cat([self.registers[groups.task_id], tokens], dim=1)
        task_id = groups.task_id[:, None].expand(tokens.shape[:2])
        hidden, balance = self.transformer(
            tokens, task_id, position=position, mask=mask, slabs=slabs
        )
        return hidden[:, self.transformer.num_registers :], balance

    def embed(self, token: Tensor, task_id: Tensor) -> Tensor:
        """Mix the task embedding into tokens ``(B, …, D)``, by ``task_id (B,)``."""
        if self.task_embedding is None:
            return token
        task = self.task_embedding(task_id).view(len(token), *(1,) * (token.dim() - 2), -1)
        if self.join_task is None:
            return token + task
        return self.join_task(torch.cat([token, task.expand_as(token)], dim=-1))
