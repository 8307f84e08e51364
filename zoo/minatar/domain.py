"""The MinAtar domain, as experiments name it: ``zoo.minatar.domain:MINATAR``."""

from collections.abc import Mapping, Sequence
from typing import Any

from lzero.config import EnvConfig
from lzero.envs.multitask import MultiTaskVectorEnv, TaskEnv
from zoo.minatar.envs import GAMES, SIDE, MinAtarScreen, MinAtarVectorEnv, game_shape


class MinAtarDomain:
    """Breakout, Asterix, SpaceInvaders, Freeway and Seaquest on a 10x10 grid, one channel per kind of object.

    Games have one life and no frames to skip: ``end_on_life_loss``, ``frame_skip`` and ``noop_max`` mean nothing here.
    """

    games: tuple[str, ...] = tuple(GAMES)
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
        """Environments of the tasks ``task_ids`` of ``games``; they run in this thread, ``num_threads`` is not used.

        Raises:
            ImportError: if the package ``minatar`` is missing.
        """
        tasks = [
            TaskEnv(
                MinAtarVectorEnv(games[task], count, **_settings(config, games[task])),
                task_id=task,
                name=games[task],
                layout="hwc",
                clip_reward=training and config.clips_reward_of(games[task]),
                env_offset=offset,
                legal_actions=game_shape(games[task]).minimal_actions if config.minimal_actions else None,
            )
            for task, count, offset in zip(task_ids, num_envs, env_offsets, strict=True)
        ]
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
        return MinAtarScreen(game, **_settings(config, game))


def _settings(config: EnvConfig, game: str) -> dict[str, Any]:
    return {
        "max_episode_steps": config.step_limit_of(game),
        "sticky": config.sticky_action_probability,
        "difficulty_ramping": config.difficulty_ramping,
    }


MINATAR = MinAtarDomain()
