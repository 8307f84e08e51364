"""The multi-task UniZero model: encoder and world model behind the three calls that training and search need.

Shape legend: B = windows, S = steps, N = roots, D = latent width, A = actions, V = support bins,
P = steps of a past, J = history steps, E = rows of a round of simulations.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lzero.config import ModelConfig
from lzero.model.unizero_world_models.search_cache import SearchCache
from lzero.model.unizero_world_models.search_steps import expand, prefill
from lzero.model.unizero_world_models.world_model_multitask import (
    Timeline,
    WorldModel,
    WorldModelOutput,
)
from lzero.nn.encoder import Encoder, joined_windows
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
        self,
        config: ModelConfig,
        observation_shape: tuple[int, ...],
        num_actions: int,
        num_tasks: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            config.encoder, observation_shape, config.embed_dim, num_tasks, config.latent_norm
        )
        self.world_model = WorldModel(config, num_tasks, num_actions)

    def encode(self, observation: Tensor, groups: TaskGroups) -> Tensor:
        """Latents ``(B, S, D)`` of observations ``(B, S, *observation_shape)``; ``groups`` are the tasks of the B rows."""
        windows, steps = observation.shape[:2]
        latent = self.encoder(joined_windows(observation), groups.task_id.repeat_interleave(steps))
        return latent.view(windows, steps, -1)

    def forward(
        self,
        observation: Tensor,
        action: Tensor,
        groups: TaskGroups,
        timeline: Timeline | None = None,
    ) -> tuple[Tensor, WorldModelOutput]:
        """Encode windows and predict along them.

        Args:
            observation: ``(B, P+S, *observation_shape)``; the past is encoded without gradient.
            action: ``(B, P+S−1)`` int64.
            groups: tasks of the B rows.
            timeline: of the P+S steps; None where each window is of one episode and P is 0.

        Returns:
            Latents ``(B, S, D)`` and the predictions.
        """
        past = 0 if timeline is None else timeline.past
        # first what has a gradient: autocast keeps the weights that it has cast, with or without one
        latent = seen = self.encode(observation[:, past:], groups)
        if past:
            with torch.no_grad():
                latent_of_past = self.encode(observation[:, :past], groups)
            seen = torch.cat([latent_of_past, latent], dim=1)
        return latent, self.world_model(seen, action, groups, timeline)

    def initial_inference(
        self,
        latent: Tensor,
        action: Tensor,
        num_valid: Tensor,
        groups: TaskGroups,
        num_simulations: int,
    ) -> RootInference:
        """Predict at the roots of a search.

        Args:
            latent: last J latents of every root ``(N, J, D)``, the current one last.
            action: the J−1 actions between them ``(N, J−1)`` int64.
            num_valid: ``(N,)`` int64, how many of those pairs are real.
            groups: tasks of the N rows.
            num_simulations: M, the simulations that will follow.
        """
        return RootInference(
            *prefill(self.world_model, latent, action, num_valid, groups, num_simulations)
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
        groups = cache.groups.take(root)
        rows = torch.from_numpy(cache.rows(root, parent, action, node))
        return self.expand(cache, rows.to(groups.task_id.device, non_blocking=True), groups)

    def expand(self, cache: SearchCache, rows: Tensor, groups: TaskGroups) -> NodeInference:
        """:meth:`recurrent_inference` of a round that is on the device already; see :func:`expand`."""
        return NodeInference(*expand(self.world_model, cache, rows, groups, self.encoder.norm))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that all tasks share."""
        own = {id(parameter) for parameter in self.task_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def task_parameters(self) -> list[nn.Parameter]:
        """Parameters that belong to single tasks, stacked over tasks; none where there is one task."""
        world_model = self.world_model
        if world_model.num_tasks == 1:
            return []
        heads = () if self.config.share_head else world_model.heads.values()
        modules = [*heads, world_model.task_embedding, self.encoder.task_vector]
        parameters = [
            parameter
            for module in modules
            if module is not None
            for parameter in module.parameters()
        ]
        return parameters + ([] if world_model.registers is None else [world_model.registers])
