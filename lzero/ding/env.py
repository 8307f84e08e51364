"""One environment of one task of any domain, as DI-engine's managers hold it.

DI-engine resets an environment when an episode is done; ours begin the next episode with the step after. One inner step that
only resets stands between the two, so an environment here plays, seed for seed, the episodes of the same row of a
:class:`~lzero.envs.multitask.MultiTaskVectorEnv`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from ding.envs import BaseEnv, BaseEnvTimestep
from ding.utils import ENV_REGISTRY
from gymnasium.spaces import Box, Discrete

from lzero import checks
from lzero.config import EnvConfig
from lzero.ding.config import ENV_NAME, OURS
from lzero.entry.checkpointing import env_seed
from lzero.envs.domain import load_domain, with_domain_settings
from lzero.envs.multitask import MultiTaskVectorEnv

DOMAINS = {
    "lzero_atari": "zoo.atari.domain:ATARI",
    "lzero_catch": "zoo.catch.domain:CATCH",
    "lzero_classic_control": "zoo.classic_control.domain:CLASSIC_CONTROL",
    "lzero_minatar": "zoo.minatar.domain:MINATAR",
}
"""Import paths of domains by the name under which their environments are registered; another domain is ``lzero`` and names its
path in the section."""


@ENV_REGISTRY.register(ENV_NAME)
class LZeroEnv(BaseEnv):
    """Environment number ``env_offset`` of task ``task_id``; nothing is made before it is asked for.

    Args:
        cfg: ``lzero`` (section ``env`` of an experiment), ``task_id``, ``env_offset`` and ``training``, as :func:`env_cfgs`
            writes them.

    Raises:
        ValueError, pydantic.ValidationError: if something of it is missing or not valid.
    """

    domain: ClassVar[str | None] = None
    """Import path of the domain, where the section need not name it."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        checks.mapping("cfg", cfg, "config of one environment, see lzero.ding.env_cfgs")
        for name in (OURS, "task_id", "env_offset", "training"):
            if name not in cfg:
                raise ValueError(f"cfg lacks {name}: make it with lzero.ding.env_cfgs")
        self._section = read_section(cfg[OURS], self.domain)
        last = len(self._section.games) - 1
        self.task_id = checks.count("task_id", cfg["task_id"], 0, last)
        self.env_offset = checks.count("env_offset", cfg["env_offset"], 0)
        self._training = bool(cfg["training"])
        self._seed = 0
        self._inner: MultiTaskVectorEnv | None = None
        self._first = np.zeros(0)  # observation of the episode's beginning
        self._steps: int | None = None  # of the episode under way; None before the first one
        self._done = False
        self._score = 0.0
        self._restarts = 0  # episodes that were left before their end

    @property
    def observation_space(self) -> Box:
        """``(C, H, W)`` or ``(F,)``, padded over the games."""
        inner = self._made()
        dtype = inner.observation_dtype
        high = 255 if dtype == np.uint8 else np.inf
        low = 0 if dtype == np.uint8 else -np.inf
        return Box(low, high, inner.observation_shape, dtype.type)

    @property
    def action_space(self) -> Discrete:
        """As many actions as the game with the most has."""
        return Discrete(self._made().num_actions)

    @property
    def reward_space(self) -> Box:
        """One number."""
        return Box(-np.inf, np.inf, (1,), np.float32)

    @property
    def legal_actions(self) -> np.ndarray:
        """``(A,)`` bool."""
        return self._made().legal_actions[0]

    def seed(self, seed: int, dynamic_seed: bool = True) -> None:
        """The next reset begins the first episode of ``seed``; later ones follow from it, each another.

        Args:
            seed: the same for all environments: their tasks and numbers keep them apart.
            dynamic_seed: of DI-engine; not used, since no episode is played twice anyway.
        """
        self._seed = checks.count("seed", int(seed), 0)
        self._steps, self._restarts = None, 0

    def reset(self) -> np.ndarray:
        """First observation of the next episode; of the same episode again where none of its steps was taken."""
        inner = self._made()
        if self._steps is None:
            self._first = inner.reset(self._seed).observation[0]
        elif self._done:  # the step that only resets; its action is ignored
            self._first = inner.step(self._some_action()).observation[0]
        elif self._steps > 0:
            self._restarts += 1
            self._first = inner.reset(env_seed(self._seed, self._restarts)).observation[0]
        self._steps, self._done, self._score = 0, False, 0.0
        return np.ascontiguousarray(self._first)

    def step(self, action: Any) -> BaseEnvTimestep:
        """Act.

        ``info`` says ``terminated`` (also by a lost life where that counts), ``truncated``, ``raw_reward`` of the game itself,
        and with the last step ``eval_episode_return``, the sum of those.

        Raises:
            ValueError: for an action that is not legal.
            RuntimeError: before the first reset, or after the end of an episode.
        """
        if self._steps is None or self._done:
            raise RuntimeError("step() without an episode under way: call reset() first")
        number = np.asarray(action).reshape(-1)
        checks.shape("action", number, 1)
        answer = self._made().step(checks.integers("action", number).astype(np.int64))
        self._steps += 1
        self._done = bool(answer.episode_over[0])
        raw = float(answer.raw_reward[0])
        self._score += raw
        info: dict[str, Any] = {
            "terminated": bool(answer.terminated[0]),
            "truncated": bool(answer.truncated[0]),
            "raw_reward": raw,
        }
        if self._done:
            info["eval_episode_return"] = self._score
        observation = np.ascontiguousarray(answer.observation[0])
        return BaseEnvTimestep(observation, answer.reward.astype(np.float32), self._done, info)

    def random_action(self) -> np.ndarray:
        """A legal action, drawn uniformly; numpy's global generator, as DI-engine seeds it."""
        return np.array(np.random.choice(np.flatnonzero(self.legal_actions)))

    def close(self) -> None:
        """Close the environment; it can be made anew by a reset."""
        if self._inner is not None:
            self._inner.close()
        self._inner, self._steps = None, None

    def __repr__(self) -> str:
        game = self._section.games[self.task_id]
        return f"LZeroEnv({self._section.domain}, {game}, task {self.task_id}, number {self.env_offset})"

    @staticmethod
    def create_collector_env_cfg(cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Configs of all training environments of section ``env``, sorted by task."""
        return env_cfgs(cfg[OURS], training=True)

    @staticmethod
    def create_evaluator_env_cfg(cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Configs of all evaluation environments of section ``env``, sorted by task."""
        return env_cfgs(cfg[OURS], training=False)

    def _some_action(self) -> np.ndarray:
        return np.array([np.argmax(self.legal_actions)], np.int64)

    def _made(self) -> MultiTaskVectorEnv:
        if self._inner is None:
            section = self._section
            inner = load_domain(section.domain).make(
                section,
                section.games,
                [self.task_id],
                [1],
                env_offsets=[self.env_offset],
                training=self._training,
                num_threads=1,
            )
            inner.limit_episodes({self.task_id: section.step_limit_of(section.games[self.task_id])})
            self._inner = inner
        return self._inner


for _name, _path in DOMAINS.items():
    ENV_REGISTRY.register(_name, type(_name, (LZeroEnv,), {"domain": _path}))


def read_section(section: Mapping[str, Any], domain: str | None = None) -> EnvConfig:
    """Section ``env`` as its domain reads it.

    Args:
        section: its fields.
        domain: import path where the section names none.

    Raises:
        pydantic.ValidationError: if it is not valid.
    """
    named = {} if domain is None else {"domain": domain}
    return with_domain_settings({"env": named | dict(section)}).env


def env_cfgs(
    section: Mapping[str, Any], *, training: bool, tasks: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Configs of :class:`LZeroEnv`, one for each environment, sorted by task: number i of the manager is row i of the actor.

    Args:
        section: fields of section ``env``.
        training: rewards are clipped and lives end episodes as the section says; else neither.
        tasks: whose environments; None for those of all tasks.

    Raises:
        ValueError: for a task that the section does not have.
    """
    env = read_section(section)
    cfgs = []
    for task in range(len(env.games)) if tasks is None else tasks:
        game = env.games[checks.count("tasks", task, 0, len(env.games) - 1)]
        count = env.envs_of(game) if training else env.num_eval_envs
        for number in range(count):
            cfgs.append(
                {OURS: section, "task_id": task, "env_offset": number, "training": training}
            )
    return cfgs
