"""Any id of gymnasium's registry, as experiments name it: ``gym``, or ``zoo.gym.domain:GYM``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveInt

from lzero.config import EnvConfig
from lzero.envs.domain import Domain, Screen, check_made
from lzero.envs.multitask import MultiTaskVectorEnv, TaskEnv
from lzero.envs.random_scores import RandomScore

if TYPE_CHECKING:
    from zoo.gym.envs import View
    from zoo.gym.games import Look

SOLVED = "solved"  # label of the return that the registry calls solved
NEGLIGIBLE = 1e-6  # of a threshold: below it, its distance from the random score is no scale


class GymEnvConfig(EnvConfig):
    """Environments of gymnasium's registry and how they are played."""

    shapes_observations: ClassVar[tuple[str, ...]] = ("image_size", "grayscale", "frame_stack")

    domain: str = "zoo.gym.domain:GYM"
    """What makes the environments: atari, minatar, catch, classic_control, gym, or an import path ``module:attribute``."""
    games: tuple[str, ...] = ("CartPole-v1",)
    """Ids learned together, such as CartPole-v1, ALE/Breakout-v5, or my_module:MyEnv-v0, whose module is imported first; the
    position in this list is the task id."""
    clip_reward: bool = False
    """Learn from the sign of the reward (collecting only; evaluation counts the true reward)."""
    end_on_life_loss: bool = True
    """A lost life ends the episode for learning, in games that tell lives (collecting only; the game goes on)."""
    image_size: int = Field(64, ge=8)
    """Side of pictures in pixels; square ones of one size that are smaller stay as they are."""
    grayscale: bool = False
    """Pictures in shades of gray: a third of the replay's memory and of the first convolution's work."""
    frame_stack: PositiveInt = 1
    """Last pictures in one observation, as channels; the world model's context is one memory already."""


@dataclass(frozen=True)
class GymDomain:
    """Whatever gymnasium has registered, with Box observations and Discrete actions; spaces are read from the environments.

    Scores are told by a random policy's, which every run measures once: 0 is what it gets, 1 what the registry calls solved.
    Where it calls nothing so, or less than random play, the unit is the random score's magnitude or the standard deviation of
    its episodes, whichever is larger; 1 if both are 0.
    """

    settings: ClassVar[type[EnvConfig]] = GymEnvConfig
    score_scale: ClassVar[str] = "random-normalised"

    random: Mapping[str, RandomScore] = field(default_factory=dict)
    """What a random policy gets, by game."""

    @property
    def games(self) -> tuple[str, ...]:
        """Every id that is registered now; importing a module may add others."""
        from zoo.gym.registry import registered_ids

        return registered_ids()

    def check_games(self, config: EnvConfig) -> None:
        """Make one environment of each game, and look whether they can be learned, together.

        Raises:
            ValueError: why not, and what to do.
        """
        if config.games:  # a run without any is refused by the schema
            _looks(config.games, GymEnvConfig.read(config))

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
        """Environments of the tasks ``task_ids`` of ``games``; ``num_threads`` emulate Atari games, all others run in this
        thread.

        Raises:
            ValueError: as :func:`~lzero.envs.domain.check_made`, and if a game cannot be made or learned.
        """
        check_made(games, games, task_ids, num_envs, env_offsets)
        from zoo.gym.envs import make_gym_vector_env, reseed_after

        gym = GymEnvConfig.read(config)
        looks, view = _looks(games, gym)
        tasks = []
        for task, count, offset in zip(task_ids, num_envs, env_offsets, strict=True):
            look = looks[task]
            threads = math.ceil(num_threads / len(task_ids))
            tasks.append(
                TaskEnv(
                    make_gym_vector_env(look, count, view, num_threads=threads),
                    task_id=task,
                    name=look.game,
                    layout=view.layout_of(look),
                    clip_reward=training and gym.clips_reward_of(look.game),
                    end_on_life_loss=training and gym.end_on_life_loss and look.has_lives,
                    env_offset=offset,
                    reseed_after=reseed_after(look),
                )
            )
        # Over all games, not this rank's alone: every rank holds the same model.
        shapes = [view.shape_of(look) for look in looks]
        shape = (max(shape[0] for shape in shapes), *shapes[0][1:])
        actions = max(look.num_actions for look in looks)
        return MultiTaskVectorEnv(tasks, num_actions=actions, observation_shape=shape)

    def with_random_scores(self, random: Mapping[str, RandomScore]) -> Domain:
        """The domain as it scores games in which a random policy got ``random``, by game."""
        return GymDomain(dict(random))

    def normalised_score(self, game: str, score: float) -> float | None:
        """``score`` on the scale that the class describes; None where no random policy was measured."""
        from zoo.gym.registry import reward_threshold

        if game not in self.random:
            return None
        random = self.random[game]
        solved = reward_threshold(game)
        if solved is not None and solved - random.mean > NEGLIGIBLE * max(1.0, abs(solved)):
            return (score - random.mean) / (solved - random.mean)
        return (score - random.mean) / (max(abs(random.mean), random.std) or 1.0)

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """What a random policy got in this run, and what the registry calls solved, as far as known."""
        from zoo.gym.registry import reward_threshold

        known = {}
        if game in self.random:
            known["random"] = self.random[game].mean
        solved = reward_threshold(game)
        if solved is not None:
            known[SOLVED] = float(solved)
        return known

    def make_screen(self, config: EnvConfig, game: str) -> Screen | None:
        """What gymnasium renders of ``game``; None where it renders nothing."""
        from zoo.gym.screen import make_screen

        gym = GymEnvConfig.read(config)
        games = gym.games if game in gym.games else (game,)
        looks, view = _looks(games, gym)
        return make_screen(looks[games.index(game)], view)


def _looks(games: Sequence[str], config: GymEnvConfig) -> "tuple[list[Look], View]":
    """All games of a run, and the view that makes them alike.

    Raises:
        ValueError: if one cannot be made, or they cannot be learned together.
    """
    from zoo.gym.envs import common_view
    from zoo.gym.games import check_together, look_at

    if not games:
        raise ValueError("env.games is empty; name at least one game, e.g. --env.games CartPole-v1")
    looks = [look_at(game) for game in games]
    check_together(looks)
    view = common_view(
        looks,
        config.image_size,
        grayscale=config.grayscale,
        frame_stack=config.frame_stack,
    )
    return looks, view


GYM: Domain = GymDomain()
