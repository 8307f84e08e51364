"""The Atari domain, as experiments name it: ``zoo.atari.domain:ATARI``."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from lzero.config import EnvConfig
from lzero.envs.multitask import MultiTaskVectorEnv


class AtariDomain:
    """Atari 2600 games through ALE; scores are human-normalised where the game has reference scores."""

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
        """Environments of the games ``task_ids`` of ``games``."""
        from zoo.atari.envs import make_atari_multitask_env

        mine = [games[task] for task in task_ids]
        return make_atari_multitask_env(
            mine,
            task_ids,
            num_envs,
            env_offsets=env_offsets,
            training=training,
            max_episode_steps=[config.step_limit_of(game) for game in mine],
            clip_reward=[training and config.clips_reward_of(game) for game in mine],
            end_on_life_loss=training and config.end_on_life_loss,
            num_threads=num_threads,
            noop_max=config.noop_max,
            sticky=config.sticky_action_probability,
            frame_skip=config.frame_skip,
            only_minimal_actions=config.minimal_actions,
        )

    def normalised_score(self, game: str, score: float) -> float | None:
        """Human-normalised score; None for a game without reference scores."""
        from zoo.atari.scores import has_reference, human_normalised

        return human_normalised(game, score) if has_reference(game) else None

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """A random player, a human and published multi-game results; empty for a game without reference scores."""
        from zoo.atari.scores import reference_scores

        return reference_scores(game)

    def make_screen(self, config: EnvConfig, game: str) -> "NativeScreenTwin":  # noqa: F821 (imported where used)
        """The console's own 210x160 screen of ``game``."""
        from zoo.atari.envs import NativeScreenTwin

        return NativeScreenTwin(
            game,
            max_episode_steps=config.step_limit_of(game),
            noop_max=config.noop_max,
            sticky=config.sticky_action_probability,
            frame_skip=config.frame_skip,
        )


ATARI = AtariDomain()
