"""The multi-task UniZero model: encoder and world model behind the three calls that training and search need.

Shape legend: B = windows, S = steps, N = roots, D = latent width, A = actions, V = support bins,
C = context steps, E = rows of a round of simulations.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lzero.config import ModelConfig
from lzero.model.unizero_world_models.search_cache import SearchCache
from lzero.model.unizero_world_models.world_model_multitask import WorldModel, WorldModelOutput
from lzero.nn.encoder import Encoder
from lzero.nn.tasks import TaskGroups


@dataclass(frozen=True)
class RootInference:
    """Predictions at N roots: policy logits ``(N, A)``, value logits ``(N, V)``, and the cache for what follows."""

    policy: Tensor
    value: Tensor
    cache: SearchCache


@dataclass(frozen=True)
class NodeInference:
    """Predictions of one round of simulations.

    Attributes:
        reward: logits of the step's reward ``(E, V)``.
        termination: logits of the episode's end ``(E,)``.
        latent: latent of the new node ``(E, D)``.
        policy: logits at the new node ``(E, A)``.
        value: logits at the new node ``(E, V)``.
    """

    reward: Tensor
    termination: Tensor
    latent: Tensor
    policy: Tensor
    value: Tensor


class UniZeroMTModel(nn.Module):
    """One world model for all tasks.

    Args:
        config: model section of the experiment.
        observation_shape: ``(C, H, W)`` or ``(F,)``, padded over tasks.
        num_actions: A, padded over tasks.
        num_tasks: T.

    Source: UniZero (arXiv 2406.10667); multi-task with mixture of experts as in ScaleZero (arXiv 2509.07945).
    """

    def __init__(
        self, config: ModelConfig, observation_shape: tuple[int, ...], num_actions: int, num_tasks: int
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, observation_shape, config.embed_dim, num_tasks, config.latent_norm)
        self.world_model = WorldModel(config, num_tasks, num_actions)

    def groups(self, task_id: Tensor | np.ndarray | TaskGroups) -> TaskGroups:
        """Group rows by task for the per-task heads; pass the result on to save the work."""
        if isinstance(task_id, TaskGroups):
            return task_id
        return TaskGroups.of(task_id, self.world_model.action_embedding.weight.device)

    def encode(self, observation: Tensor, task_id: Tensor) -> Tensor:
        """Latents ``(…, D)`` of observations ``(…, *observation_shape)``; ``task_id`` has the leading shape's rows."""
        lead = task_id.shape
        latent = self.encoder(observation.flatten(0, len(lead) - 1), task_id.flatten())
        return latent.view(*lead, -1)

    def forward(
        self, observation: Tensor, action: Tensor, task_id: Tensor | np.ndarray | TaskGroups
    ) -> tuple[Tensor, WorldModelOutput]:
        """Encode windows and predict along them.

        Args:
            observation: ``(B, S, *observation_shape)``.
            action: ``(B, S−1)`` int64.
            task_id: ``(B,)`` int64 on the host, or its groups.

        Returns:
            Latents ``(B, S, D)`` and the predictions.
        """
        groups = self.groups(task_id)
        latent = self.encode(observation, groups.task_id[:, None].expand(observation.shape[:2]))
        return latent, self.world_model(latent, action, groups)

    def initial_inference(
        self,
        latent: Tensor,
        action: Tensor,
        num_valid: Tensor,
        task_id: Tensor | np.ndarray | TaskGroups,
        num_simulations: int,
    ) -> RootInference:
        """Predict at the roots of a search.

        Args:
            latent: last C latents of every root ``(N, C, D)``, the current one last.
            action: the C−1 actions between them ``(N, C−1)`` int64.
            num_valid: ``(N,)`` int64, how many of those pairs are real.
            task_id: ``(N,)`` int64 on the host, or its groups.
            num_simulations: M, the simulations that will follow.
        """
        return RootInference(
            *self.world_model.prefill(latent, action, num_valid, self.groups(task_id), num_simulations)
        )

    def recurrent_inference(
        self,
        cache: SearchCache,
        root: np.ndarray,
        parent: np.ndarray,
        action: np.ndarray,
        node: np.ndarray,
    ) -> NodeInference:
        """Predict a round of simulations, one a row; rows of one root do not see each other.

        Args:
            cache: of :meth:`initial_inference`; gains the new nodes.
            root: ``(E,)`` int64 on the host, as are all of these.
            parent: ``(E,)`` int64, the node that is left: the root 0 or one of an earlier round.
            action: ``(E,)`` int64, taken there.
            node: ``(E,)`` int64, number that the new node gets, 1 … M and not yet taken.
        """
        return NodeInference(
            *self.world_model.expand(cache, root, parent, action, node, self.encoder.norm)
        )

    def task_parameters(self) -> list[nn.Parameter]:
        """Parameters that belong to single tasks, stacked over tasks; none where there is one task."""
        world_model = self.world_model
        if world_model.num_tasks == 1:
            return []
        heads = () if self.config.share_head else world_model.heads.values()
        modules = [*heads, world_model.task_embedding, self.encoder.task_vector]
        parameters = [parameter for module in modules if module is not None for parameter in module.parameters()]
        return parameters + ([] if world_model.registers is None else [world_model.registers])


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimiser groups: weight decay on matrices, none on biases, norms and stacked vectors."""

    def is_matrix(parameter: Tensor) -> bool:
        return parameter.ndim in (2, 4) or (parameter.ndim == 3 and parameter.shape[1] > 1)

    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if is_matrix(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not is_matrix(p)], "weight_decay": 0.0},
    ]


@torch.no_grad()
def ema_update_(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move ``target`` towards ``online`` by ``momentum``, floating buffers included; other buffers are copied."""
    for mine, theirs in (
        (list(target.parameters()), list(online.parameters())),
        (list(target.buffers()), list(online.buffers())),
    ):
        floating = [(a, b) for a, b in zip(mine, theirs, strict=True) if a.is_floating_point()]
        if floating:
            torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], momentum)
        for a, b in zip(mine, theirs, strict=True):
            if not a.is_floating_point() and not a.is_complex():
                a.copy_(b)
