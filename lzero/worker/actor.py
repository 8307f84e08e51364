"""Acting in environments: encode, search, choose. One actor serves all environments of all tasks of
a rank.

Shape legend: N = environments, A = actions.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lzero.device import torch_threads
from lzero.mcts.search import RootNoise, SearchResult, make_tree, sample_actions, search
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy
from lzero.policy.search_model import round_threads, search_model
from lzero.worker.context import EnvContext


@dataclass(frozen=True)
class Decision:
    """What an actor decided and why.

    Attributes:
        action: ``(N,)`` int64.
        policy: what the search would have the network learn ``(N, A)``.
        value: root value of the search ``(N,)``.
        prior: the network's own policy, without noise ``(N, A)``.
        network_value: the network's own value ``(N,)``.
        reward: that the network predicts for the action ``(N,)``.
    """

    action: np.ndarray
    policy: np.ndarray
    value: np.ndarray
    prior: np.ndarray
    network_value: np.ndarray
    reward: np.ndarray


class Actor:
    """Searches and acts for N environments, remembering each one's recent past.

    Args:
        policy: whose online model acts, with the search settings of its config.
        task_id: ``(N,)`` int64.
        legal: legal actions ``(N, A)`` bool.
        rng: with it the actor explores: root or Gumbel noise, random ties, sampled actions
            (collecting); None has none of that (evaluating).
    """

    def __init__(
        self,
        policy: UniZeroMTPolicy,
        task_id: np.ndarray,
        legal: np.ndarray,
        rng: np.random.Generator | None,
    ) -> None:
        config = policy.config
        search_config, discount = config.policy.search, config.policy.discount
        self.model, self.autocast, self.rng = policy.model, policy.autocast, rng
        self.search_model = search_model(policy.model, policy.support, policy.dtype)
        self.search_config, self.legal = search_config, legal
        self.groups = TaskGroups.of(task_id, policy.device)
        self.device = self.groups.task_id.device
        self.context = EnvContext(
            len(task_id), config.history_steps, config.model.embed_dim, self.device
        )
        simulations = (
            search_config.num_eval_simulations if rng is None else search_config.num_simulations
        )
        self.tree = make_tree(
            search_config, len(task_id), simulations, legal.shape[1], discount=discount, rng=rng
        )
        self.noise = None
        if rng is not None and search_config.kind == "puct":
            self.noise = RootNoise(
                search_config.dirichlet_alpha, search_config.dirichlet_weight, rng
            )

    @torch.inference_mode()
    def act(self, observation: np.ndarray) -> Decision:
        """Choose an action for every observation ``(N, *shape)``; the context moves on a step."""
        with self.autocast():
            latent = self.model.encoder(self._to_device(observation), self.groups.task_id)
            result = self._search(latent)
        action = result.actions(self.search_config.temperature, self.rng)
        self.context.push(latent, torch.as_tensor(action, device=self.device))
        reward = self.tree.root_rewards(action)
        return Decision(
            action, result.policy(), result.value, result.prior, result.network_value, reward
        )

    def _search(self, latent: torch.Tensor) -> SearchResult:
        with torch_threads(round_threads(self.model, len(latent))):
            root = self.model.initial_inference(
                self.context.with_current(latent),
                self.context.action,
                self.context.num_valid,
                self.groups,
                self.tree.num_simulations,
            )
        return search(self.search_model, root, self.legal, self.tree, self.noise)

    def act_randomly(self) -> Decision:
        """Legal actions drawn uniformly, without looking; for warming up the replay. Leaves an
        empty context.

        Policy and prior are the uniform policy that was followed, values and reward are zero.

        Raises:
            RuntimeError: if the actor has no ``rng``.
        """
        if self.rng is None:
            raise RuntimeError(
                "an actor that does not explore cannot act at random; make it with rng"
            )
        policy = (self.legal / self.legal.sum(axis=1, keepdims=True)).astype(np.float32)
        action = sample_actions(policy, 1.0, self.rng)
        self.forget(np.ones(len(policy), bool))
        unknown = np.zeros(len(policy), np.float32)
        return Decision(action, policy, unknown, policy, unknown, unknown)

    def forget(self, ended: np.ndarray) -> None:
        """Clear the context of the environments whose episode ``ended (N,)``."""
        self.context.clear(ended)

    def _to_device(self, observation: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(observation, device=self.device)
