"""The MinAtar domain, as experiments name it: ``zoo.minatar.domain:MINATAR``."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from lzero.config import EnvConfig
from lzero.envs.domain import Domain, check_made
from lzero.envs.multitask import MultiTaskVectorEnv, TaskEnv
from zoo.minatar.envs import (
    GAMES,
    RESEED_AFTER,
    SIDE,
    MinAtarScreen,
    MinAtarVectorEnv,
    game_shape,
)


class MinAtarEnvConfig(EnvConfig):
    """MinAtar games and how they are played; games have one life, ``end_on_life_loss`` means
    nothing."""

    domain: str = "zoo.minatar.domain:MINATAR"
    """What makes the environments: atari, minatar, catch, classic_control, gym, or an import path ``module:attribute``."""
    sticky_action_probability: float = Field(0.0, ge=0.0, le=1.0)
    """Probability that the environment repeats the previous action."""
    difficulty_ramping: bool = True
    """Games get harder with progress."""
    minimal_actions: bool = False
    """Only the actions that have an effect in the game; the others are masked, all keep their
    numbers."""


class MinAtarDomain:
    """Breakout, Asterix, SpaceInvaders, Freeway and Seaquest on a 10x10 grid, one channel per kind
    of object."""

    games: tuple[str, ...] = tuple(GAMES)
    settings = MinAtarEnvConfig
    score_scale = "times random"

    def make(
        self,
        config: EnvConfig,
        games: Sequence[str],
        task_ids: Sequence[int],
        num_envs: Sequence[int],
        *,
        env_offsets: Sequence[int],
        training: bool,
        num_threads: int,
    ) -> MultiTaskVectorEnv:
        """Environments of the tasks ``task_ids`` of ``games``; they run in this thread,
        ``num_threads`` is not used.

        Raises:
            ImportError: if the package ``minatar`` is missing.
            ValueError: as :func:`~lzero.envs.domain.check_made`.
        """
        check_made(self.games, games, task_ids, num_envs, env_offsets)
        minatar = MinAtarEnvConfig.read(config)
        tasks = []
        for task, count, offset in zip(task_ids, num_envs, env_offsets, strict=True):
            game = games[task]
            legal = game_shape(game).minimal_actions if minatar.minimal_actions else None
            tasks.append(
                TaskEnv(
                    MinAtarVectorEnv(game, count, **_how_played(minatar, game)),
                    task_id=task,
                    name=game,
                    layout="hwc",
                    clip_reward=training and minatar.clips_reward_of(game),
                    env_offset=offset,
                    legal_actions=legal,
                    reseed_after=RESEED_AFTER,
                )
            )
        # Over all games, not this rank's alone: every rank holds the same model.
        channels = max(game_shape(game).channels for game in games)
        return MultiTaskVectorEnv(tasks, observation_shape=(channels, SIDE, SIDE))

    def normalised_score(self, game: str, score: float) -> float | None:
        """Multiples of a random policy's mean; None where that is nearly 0 (Freeway, Seaquest)."""
        from zoo.minatar.scores import times_random

        return times_random(game, score)

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """The random policy's mean with the presets' settings."""
        from zoo.minatar.scores import random_play

        return {"random": random_play(game).mean}

    def make_screen(self, config: EnvConfig, game: str) -> MinAtarScreen:
        """The grid of ``game``, 16 pixels a cell, each channel in a colour of its own."""
        return MinAtarScreen(game, **_how_played(MinAtarEnvConfig.read(config), game))


def _how_played(config: MinAtarEnvConfig, game: str) -> dict[str, Any]:
    return {
        "max_episode_steps": config.step_limit_of(game),
        "sticky": config.sticky_action_probability,
        "difficulty_ramping": config.difficulty_ramping,
    }


MINATAR: Domain = MinAtarDomain()
