"""The Atari domain, as experiments name it: ``zoo.atari.domain:ATARI``."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from pydantic import Field, PositiveInt

from lzero.config import EnvConfig
from lzero.envs.domain import Domain, Screen, check_made
from lzero.envs.multitask import MultiTaskVectorEnv


class AtariEnvConfig(EnvConfig):
    """Atari games and how they are played."""

    shapes_observations: ClassVar[tuple[str, ...]] = ("image_size", "grayscale", "frame_stack")

    domain: str = "zoo.atari.domain:ATARI"
    """What makes the environments: atari, minatar, catch, classic_control, gym, or an import path ``module:attribute``."""
    max_episode_steps: PositiveInt = 27000
    """Time limit of an episode in env steps (27000 steps = 108000 Atari frames)."""
    frame_skip: PositiveInt = 4
    """Frames per env step."""
    noop_max: int = Field(30, ge=0)
    """Up to this many random no-op frames after a reset."""
    sticky_action_probability: float = Field(0.0, ge=0.0, le=1.0)
    """Probability that the environment repeats the previous action."""
    image_size: int = Field(64, ge=16)
    """Side of the pictures in pixels."""
    grayscale: bool = False
    """Pictures in shades of gray: a third of the replay's memory and of the first convolution's work."""
    frame_stack: PositiveInt = 1
    """Last frames in one observation, as channels; the world model's context is one memory already."""
    minimal_actions: bool = False
    """Only the actions that have an effect in the game; the others are masked, all keep their
    numbers."""


class AtariDomain:
    """Atari 2600 games through ALE; scores are human-normalised where the game has reference
    scores."""

    settings = AtariEnvConfig
    score_scale = "human-normalised"

    @cached_property
    def games(self) -> tuple[str, ...]:
        """Every game that ALE ships, in CamelCase."""
        from zoo.atari.envs import all_games

        return all_games()

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
        """Environments of the games ``task_ids`` of ``games``.

        Raises:
            ValueError: as :func:`~lzero.envs.domain.check_made`.
        """
        check_made(self.games, games, task_ids, num_envs, env_offsets)
        from zoo.atari.envs import make_atari_multitask_env

        atari = AtariEnvConfig.read(config)
        mine = [games[task] for task in task_ids]
        return make_atari_multitask_env(
            mine,
            task_ids,
            num_envs,
            env_offsets=env_offsets,
            training=training,
            max_episode_steps=[atari.step_limit_of(game) for game in mine],
            clip_reward=[training and atari.clips_reward_of(game) for game in mine],
            end_on_life_loss=training and atari.end_on_life_loss,
            num_threads=num_threads,
            noop_max=atari.noop_max,
            sticky=atari.sticky_action_probability,
            frame_skip=atari.frame_skip,
            image_size=atari.image_size,
            grayscale=atari.grayscale,
            frame_stack=atari.frame_stack,
            only_minimal_actions=atari.minimal_actions,
        )

    def normalised_score(self, game: str, score: float) -> float | None:
        """Human-normalised score; None for a game without reference scores."""
        from zoo.atari.scores import has_reference, human_normalised

        return human_normalised(game, score) if has_reference(game) else None

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """A random player, a human and published multi-game results; empty where none are known."""
        from zoo.atari.scores import reference_scores

        return reference_scores(game)

    def make_screen(self, config: EnvConfig, game: str) -> Screen:
        """The console's own 210x160 screen of ``game``."""
        from zoo.atari.envs import NativeScreenTwin

        atari = AtariEnvConfig.read(config)
        return NativeScreenTwin(
            game,
            max_episode_steps=atari.step_limit_of(game),
            noop_max=atari.noop_max,
            sticky=atari.sticky_action_probability,
            frame_skip=atari.frame_skip,
        )


ATARI: Domain = AtariDomain()
