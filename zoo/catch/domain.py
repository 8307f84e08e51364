"""The Catch domain, as experiments name it: ``zoo.catch.domain:CATCH``."""

from collections.abc import Mapping, Sequence

from lzero.config import EnvConfig
from lzero.envs.domain import Domain, Screen, check_made
from lzero.envs.multitask import MultiTaskVectorEnv, TaskEnv

MIRRORED = {"Catch": False, "MirroredCatch": True, "CatchAgain": False}
"""Whether left and right are swapped, by game. ``CatchAgain`` is Catch under a second name: an
experiment names a game only once, and one that must see the same game in two tasks needs both names.
Its balls fall elsewhere, because a task's seeds are its own."""
RANDOM_RETURN = -0.6
"""Mean return of any policy that does not look: the ball's column is uniform over five."""


class CatchDomain:
    """Catch and its mirror image: the same pictures, opposite actions; and Catch again, for controls."""

    games: tuple[str, ...] = tuple(MIRRORED)
    settings = EnvConfig
    score_scale = "share of optimum"

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
        from zoo.catch.envs import RESEED_AFTER, CatchVectorEnv

        return MultiTaskVectorEnv(
            [
                TaskEnv(
                    CatchVectorEnv(count, mirrored=MIRRORED[games[task]]),
                    task_id=task,
                    name=games[task],
                    layout="hwc",
                    env_offset=offset,
                    reseed_after=RESEED_AFTER,
                )
                for task, count, offset in zip(task_ids, num_envs, env_offsets, strict=True)
            ]
        )

    def normalised_score(self, game: str, score: float) -> float:
        """The return itself: always catching returns 1."""
        return score

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """Returns of random moves and of always catching."""
        return {"random": RANDOM_RETURN, "optimum": 1.0}

    def make_screen(self, config: EnvConfig, game: str) -> Screen:
        """Pictures of ``game``."""
        from zoo.catch.envs import CatchScreen

        return CatchScreen(mirrored=MIRRORED[game])


CATCH: Domain = CatchDomain()
