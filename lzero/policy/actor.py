"""Acting in environments: encode, search, choose. One actor serves all environments of all tasks of a rank.

Shape legend: N = environments, A = actions, C = context steps.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from lzero.config import ModelConfig, SearchConfig
from lzero.device import torch_threads
from lzero.mcts.search import RootNoise, SearchResult, sample_actions, search
from lzero.mcts.tree import BatchTree
from lzero.model import UniZeroMTModel
from lzero.policy.context import EnvContext
from lzero.policy.scaling_transform import ScalarSupport

# N·D·D, the size of a token pass, below which waking a second thread costs more than it computes (benchmarks/search.py).
SMALL_SEARCH = 3e6


@dataclass(frozen=True)
class Decision:
    """What an actor decided and why.

    Attributes:
        action: ``(N,)`` int64.
        policy: visit distribution of the search ``(N, A)``.
        value: root value of the search ``(N,)``.
    """

    action: np.ndarray
    policy: np.ndarray
    value: np.ndarray


class Actor:
    """Searches and acts for N environments, remembering each one's recent past.

    Args:
        model: the online model.
        support: of its scalars.
        autocast: makes a context for the precision of the run.
        model_config, search_config: sizes and search settings.
        discount: per env step.
        task_id: ``(N,)`` int64.
        legal: legal actions ``(N, A)`` bool.
        rng: with it the actor explores: root noise, random ties, sampled actions (collecting); None has none of that
            (evaluating).
    """

    def __init__(
        self,
        model: UniZeroMTModel,
        support: ScalarSupport,
        autocast: Callable[[], AbstractContextManager],
        model_config: ModelConfig,
        search_config: SearchConfig,
        *,
        discount: float,
        task_id: np.ndarray,
        legal: np.ndarray,
        rng: np.random.Generator | None,
    ) -> None:
        self.model, self.support, self.autocast, self.rng = model, support, autocast, rng
        self.search_config, self.legal = search_config, legal
        self.groups = model.groups(task_id)
        self.device = self.groups.task_id.device
        self.context = EnvContext(len(task_id), model_config.context_steps, model_config.embed_dim, self.device)
        self.tree = BatchTree(
            len(task_id),
            search_config.num_eval_simulations if rng is None else search_config.num_simulations,
            legal.shape[1],
            discount=discount,
            pb_c_init=search_config.pb_c_init,
            pb_c_base=search_config.pb_c_base,
            deterministic=rng is None,
            rng=rng,
        )

    @torch.inference_mode()
    def act(self, observation: np.ndarray) -> Decision:
        """Choose an action for every observation ``(N, *shape)``; the context moves on by one step."""
        with self.autocast():
            latent = self.model.encode(self._to_device(observation), self.groups.task_id)
            result = self._search(latent)
        if self.rng is None:
            action = result.visits.argmax(axis=1)
        else:
            action = sample_actions(result.visits, self.search_config.temperature, self.rng)
        self.context.push(latent, torch.as_tensor(action, device=self.device))
        return Decision(action, result.policy(), result.value)

    def _search(self, latent: torch.Tensor) -> SearchResult:
        config = self.search_config
        noise = None if self.rng is None else RootNoise(config.dirichlet_alpha, config.dirichlet_weight, self.rng)
        small = self.device.type == "cpu" and latent.numel() * latent.shape[1] < SMALL_SEARCH
        with torch_threads(1) if small else nullcontext():
            root = self.model.initial_inference(
                self.context.with_current(latent),
                self.context.action,
                self.context.num_valid,
                self.groups,
                self.tree.num_simulations,
            )
            return search(self.model, self.support, root, self.legal, self.tree, noise)

    def act_randomly(self) -> Decision:
        """Legal actions drawn uniformly, without looking; for warming up the replay. Leaves an empty context."""
        policy = (self.legal / self.legal.sum(axis=1, keepdims=True)).astype(np.float32)
        action = sample_actions(policy, 1.0, self.rng)
        self.forget(np.ones(len(policy), bool))
        return Decision(action, policy, np.zeros(len(policy), np.float32))

    def forget(self, ended: np.ndarray) -> None:
        """Clear the context of the environments whose episode ``ended (N,)``."""
        self.context.clear(ended)

    def _to_device(self, observation: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(observation, device=self.device)
