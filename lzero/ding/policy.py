"""The multi-task UniZero policy behind DI-engine's three modes; update, search and state are those of
:class:`~lzero.policy.unizero_multitask.UniZeroMTPolicy`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from ding.policy.base_policy import Policy
from ding.utils import MODEL_REGISTRY, POLICY_REGISTRY

from lzero import checks
from lzero.config import ExperimentConfig
from lzero.ding.config import IMPORT_NAMES, OURS, POLICY_NAME, experiment_of
from lzero.ding.rows import ReadyRows
from lzero.entry.build import Foundation, Parts, generators, lay_foundation
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.policy.metrics import LearnResult
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.replay.windows import ReplayWindows

NOT_STATE = ("last_iter", "last_step")
"""What DI-engine's learner adds to a checkpoint and takes out again when it loads one itself."""


@MODEL_REGISTRY.register(POLICY_NAME)
def create_unizero_model(lzero: Mapping[str, Any]) -> UniZeroMTModel:
    """The world model of an experiment, as ``ding.model.create_model`` asks for it.

    Args:
        lzero: the experiment; an environment of each of its games is made to see their shapes.

    Raises:
        pydantic.ValidationError: if the experiment is not valid.
    """
    experiment = experiment_of({OURS: lzero})
    foundation = _foundation(experiment)
    shape, actions = foundation.env.observation_shape, foundation.legal_actions.shape[1]
    return UniZeroMTModel(experiment.model, shape, actions, experiment.num_tasks)


@POLICY_REGISTRY.register(POLICY_NAME)
class UniZeroMultitaskPolicy(Policy):
    """Learns from windows of our replay ring, acts for the environments that a manager has ready.

    Environment number i of a manager is row i of the actor: all environments of the first game, then those of the second, as
    :func:`~lzero.ding.env.env_cfgs` lists them.

    Args:
        cfg: compiled section ``policy``; ours is its key ``lzero``.
        model: to go on with; None makes one.
        enable_field: of DI-engine: which of ``learn``, ``collect`` and ``eval`` are made; None makes all.
        parts: of a run that is there already, as :func:`lzero.entry.build.build` makes it; None makes what is needed.

    Raises:
        pydantic.ValidationError: if the experiment is not valid.
        TypeError: if the model is another one.
        ValueError: for a key of ``cfg`` that nobody reads, or a model of another config.
    """

    config = {  # noqa: RUF012 (DI-engine looks for it here)
        "type": POLICY_NAME,
        "import_names": IMPORT_NAMES,
        OURS: ExperimentConfig().model_dump(mode="json"),
    }

    def __init__(
        self,
        cfg: Any,
        model: UniZeroMTModel | None = None,
        enable_field: Sequence[str] | None = None,
        *,
        parts: Parts | None = None,
    ) -> None:
        self.experiment = experiment_of(cfg)
        self._foundation = _foundation(self.experiment) if parts is None else parts.foundation
        self._rng = None if parts is None else parts.rngs["act"]
        self.core = self._core(model) if parts is None else parts.policy
        """What learns and acts."""
        self._learn_result: LearnResult | None = None
        self._eval_rows: dict[int | None, ReadyRows] = {}
        super().__init__(cfg, self.core.model, None if enable_field is None else list(enable_field))
        self._device = str(self.core.device)

    def default_model(self) -> tuple[str, list[str]]:
        """Name of the model in DI-engine's registry, and what to import for it."""
        return POLICY_NAME, IMPORT_NAMES

    def eval_mode_of(self, task_id: int) -> Any:
        """``eval_mode`` for a manager that has environments of one task alone, as an evaluator of one game has.

        Raises:
            ValueError: if there is no such task.
        """
        checks.count("task_id", task_id, 0, self.experiment.num_tasks - 1)
        return self.eval_mode._replace(
            forward=partial(self._forward_eval, task_id=task_id),
            reset=partial(self._reset_eval, task_id=task_id),
        )

    def _core(self, model: UniZeroMTModel | None) -> UniZeroMTPolicy:
        foundation = self._foundation
        shape, legal = foundation.env.observation_shape, foundation.legal_actions
        return UniZeroMTPolicy(self.experiment, shape, legal, foundation.dist, model)

    # learning

    def _init_learn(self) -> None:
        """Nothing is left to make."""

    def _forward_learn(self, data: ReplayWindows) -> dict[str, float]:
        """One update; what it has measured besides is ``get_attribute("learn_result")``.

        The result has no key ``priority``: DI-engine's learner would look for the samples of its own buffer.
        """
        checks.instance("data", data, ReplayWindows, "ReplayWindows, of ReplayBuffer.sample()")
        result = self.core.learn(data)
        self._learn_result = result
        losses = result.task_losses.tolist()
        numbers = {
            "cur_lr": self.core.optimizer.param_groups[0]["lr"],
            "total_loss": float(np.mean(losses)),
            "grad_norm": result.grad_norm.item(),
        }
        for game, loss in zip(self.experiment.env.games, losses, strict=True):
            numbers[f"loss_{game}"] = loss
        return numbers

    def _monitor_vars_learn(self) -> list[str]:
        """Numbers that DI-engine's learner shows and writes to its TensorBoard."""
        by_game = [f"loss_{game}" for game in self.experiment.env.games]
        return ["cur_lr", "total_loss", "grad_norm", *by_game]

    def _state_dict_learn(self) -> dict[str, Any]:
        """Everything but replay and environments, in groups of tensors."""
        return dict(self.core.state_dict())

    def _load_state_dict_learn(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`_state_dict_learn`."""
        groups = {name: group for name, group in state_dict.items() if name not in NOT_STATE}
        self.core.load_state_dict(groups)

    def _get_batch_size(self) -> dict[int, int]:
        """Windows of one update by task."""
        games = self.experiment.env.games
        return {task: self.experiment.batch_size_of(game) for task, game in enumerate(games)}

    # collecting

    def _init_collect(self) -> None:
        env = self.experiment.env
        if self._rng is None:  # DI-engine's set_pkg_seed has seeded torch
            self._rng = generators(("act",), torch.initial_seed() % 2**63, 0)["act"]
        counts = [env.envs_of(game) for game in env.games]
        self._collect_rows = self._rows(counts, self._rng)

    def _forward_collect(
        self, data: Mapping[int, Any], *, random: bool = False
    ) -> dict[int, dict[str, Any]]:
        """Actions by search with exploration, or at random, for the environments of ``data``.

        Args:
            data: observations by number of the environment.
            random: draw legal actions, to warm up the replay.

        Returns:
            By number: ``action``, ``policy (A,)`` to learn, ``value`` of the root, ``prior (A,)``.
        """
        return self._act(self._collect_rows, data, random=random)

    def _reset_collect(self, data_id: Sequence[int] | None = None) -> None:
        """Forget the past of these environments, or of all: their episodes are over."""
        self._collect_rows.forget(data_id)

    def _process_transition(self, obs: Any, model_output: Any, timestep: Any) -> dict[str, Any]:
        """A step as DI-engine's tools look at it; what is learned from goes through our replay ring."""
        return {
            "obs": obs,
            "action": model_output["action"],
            "next_obs": timestep.obs,
            "reward": timestep.reward,
            "done": timestep.done,
        }

    def _get_train_sample(self, transitions: Any) -> Any:
        raise NotImplementedError(
            "lzero learns from windows of its replay ring: collect with lzero.ding.ManagedCollector and draw them with "
            "ReplayBuffer.sample()"
        )

    def _state_dict_collect(self) -> dict[str, Any]:
        return {"model": self.core.model.state_dict()}

    def _load_state_dict_collect(self, state_dict: Mapping[str, Any]) -> None:
        self.core.model.load_state_dict(state_dict["model"])

    # evaluating

    def _init_eval(self) -> None:
        """Actors are made when they are first asked for: one for all games, or one for each."""

    def _forward_eval(
        self, data: Mapping[int, Any], *, task_id: int | None = None
    ) -> dict[int, dict[str, Any]]:
        """Actions by search without exploring; arguments and result as of :meth:`_forward_collect`.

        Args:
            data: observations by number of the environment.
            task_id: of all of them; None where the manager has the environments of all games.
        """
        return self._act(self._rows_of_eval(task_id), data)

    def _reset_eval(
        self, data_id: Sequence[int] | None = None, *, task_id: int | None = None
    ) -> None:
        self._rows_of_eval(task_id).forget(data_id)

    _state_dict_eval = _state_dict_collect
    _load_state_dict_eval = _load_state_dict_collect

    def _rows_of_eval(self, task_id: int | None) -> ReadyRows:
        if task_id not in self._eval_rows:
            counts = [
                self.experiment.env.num_eval_envs if task_id in (None, task) else 0
                for task in range(self.experiment.num_tasks)
            ]
            self._eval_rows[task_id] = self._rows(counts, None)
        return self._eval_rows[task_id]

    def _rows(self, counts: Sequence[int], rng: np.random.Generator | None) -> ReadyRows:
        task_id = np.repeat(np.arange(len(counts)), counts)
        return ReadyRows(self.core, task_id, self._foundation.legal_actions[task_id], rng)

    def _act(
        self, rows: ReadyRows, data: Mapping[int, Any], *, random: bool = False
    ) -> dict[int, dict[str, Any]]:
        numbers = sorted(data)
        seen = [np.asarray(data[number]) for number in numbers]
        # DI-engine's evaluator makes float32 of pictures; the encoder scales uint8 alone
        observation = np.stack(seen).astype(self._foundation.env.observation_dtype, copy=False)
        decision = rows.act(numbers, observation, random=random)
        output = {}
        for place, number in enumerate(numbers):
            output[number] = {
                "action": np.array(decision.action[place]),
                "policy": decision.policy[place],
                "value": float(decision.value[place]),
                "prior": decision.prior[place],
            }
        return output


def _foundation(experiment: ExperimentConfig) -> Foundation:
    """Process group, shapes and legal actions; its environments, one of each game, are closed: nobody plays them."""
    env = experiment.env.model_copy(update={"num_envs": 1, "overrides": {}})
    one_of_each = experiment.model_copy(update={"env": env})
    foundation = lay_foundation(one_of_each, [1] * experiment.num_tasks)
    foundation.env.close()
    return foundation
