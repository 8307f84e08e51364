"""The domain that experiments name ``zoo.classic_control.domain:CLASSIC_CONTROL``."""

from collections.abc import Mapping, Sequence

from lzero.config import EnvConfig
from lzero.envs.domain import Domain, check_made
from lzero.envs.multitask import MultiTaskVectorEnv, TaskEnv

# name: (features, actions, score of a random policy, score that counts as solved)
PROBLEMS = {
    "CartPole-v1": (4, 2, 22.0, 475.0),
    "Acrobot-v1": (6, 3, -500.0, -100.0),
    "MountainCar-v0": (2, 3, -200.0, -110.0),
}


class ClassicControlDomain:
    """CartPole, Acrobot and MountainCar as tasks of one agent; features and actions are padded to
    the largest."""

    games: tuple[str, ...] = tuple(PROBLEMS)
    settings = EnvConfig
    score_scale = "share of solved"

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
        """Environments of the tasks ``task_ids`` of ``games``; they run in numpy, ``num_threads``
        is not used.

        Raises:
            ValueError: as :func:`~lzero.envs.domain.check_made`.
        """
        check_made(self.games, games, task_ids, num_envs, env_offsets)
        from zoo.classic_control.envs import TIME_LIMIT, make_classic_control_vector_env

        tasks = [
            TaskEnv(
                make_classic_control_vector_env(
                    games[task],
                    count,
                    max_episode_steps=min(
                        config.step_limit_of(games[task]), TIME_LIMIT[games[task]]
                    ),
                ),
                task_id=task,
                name=games[task],
                layout="vector",
                clip_reward=training and config.clips_reward_of(games[task]),
                env_offset=offset,
                # CartPole's poles share one random stream: none of them can be seeded alone
                reseed_after=None if games[task] == "CartPole-v1" else 0,
            )
            for task, count, offset in zip(task_ids, num_envs, env_offsets, strict=True)
        ]
        # Over all games, not this rank's alone: every rank holds the same model.
        features = max(PROBLEMS[game][0] for game in games)
        actions = max(PROBLEMS[game][1] for game in games)
        return MultiTaskVectorEnv(tasks, num_actions=actions, observation_shape=(features,))

    def normalised_score(self, game: str, score: float) -> float:
        """0 for a random policy, 1 for the score that counts as solved."""
        _, _, random, solved = PROBLEMS[game]
        return (score - random) / (solved - random)

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """A random policy's score and the one that counts as solved."""
        _, _, random, solved = PROBLEMS[game]
        return {"random": random, "solved": solved}

    def make_screen(self, config: EnvConfig, game: str) -> None:
        """None: these problems are not filmed."""
        return None


CLASSIC_CONTROL: Domain = ClassicControlDomain()
