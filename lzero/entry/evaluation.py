"""Evaluating a policy inside a run or from a checkpoint: environments, episodes, table, videos."""

import logging
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lzero.config import ExperimentConfig
from lzero.distributed import Distributed, RankShare
from lzero.entry.stopping import AskedToStopError, StopRequest
from lzero.envs.domain import load_domain
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.worker.actor import Actor
from lzero.worker.evaluator import Evaluation, Recording, evaluate
from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(__name__)
VIDEO_SCALE = 2  # screen pixels per game pixel


class GameEvaluator:
    """Evaluates the tasks of a rank and brings the scores of all ranks together.

    A task that several ranks share is evaluated by the first of them.

    Args:
        config: the experiment.
        policy: what is evaluated; neither its parameters nor any training generator change.
        dist: process group.
        share: tasks of this rank.
        stop: who may ask for an end before all episodes are played; None for nobody.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        policy: UniZeroMTPolicy,
        dist: Distributed,
        share: RankShare,
        stop: StopRequest | None = None,
    ) -> None:
        self.config, self.policy, self.dist = config, policy, dist
        self._stop = stop or StopRequest()
        pairs = zip(share.task_ids, share.env_offset, strict=True)
        self.tasks = tuple(task for task, offset in pairs if offset == 0)
        self.domain = load_domain(config.env.domain)
        self.env: MultiTaskVectorEnv | None = None
        if self.tasks:
            self.env = self.domain.make(
                config.env,
                config.env.games,
                self.tasks,
                [config.env.num_eval_envs] * len(self.tasks),
                env_offsets=[0] * len(self.tasks),
                training=False,
                num_threads=dist.threads,
            )

    def run(self, seed: list[int], num_episodes: int, video_dir: Path | None) -> ScoreTable:
        """Play ``num_episodes`` episodes of every task; with ``video_dir`` film the first of each.

        Returns:
            The same table on every rank.

        Raises:
            AskedToStopError: on all ranks, if one was asked to stop meanwhile. It ends at its next move, the others with
                their episodes: launchers tell all of them.
        """
        scores = np.full((self.config.num_tasks, num_episodes), np.nan)
        stopped = False
        if self.env is not None:
            try:
                result = self._evaluate(self.env, seed, num_episodes, filming=video_dir is not None)
            except AskedToStopError:
                stopped = True
            else:
                scores[list(self.tasks)] = result.score
                if video_dir is not None:
                    for task, recording in result.recordings.items():
                        write_video(recording, video_dir / f"{self.config.env.games[task]}.mp4")
        if self.dist.any(stopped):
            raise AskedToStopError
        gathered = np.nanmax(np.stack([*self.dist.all_gather_array(scores)]), axis=0)
        by_game = dict(zip(self.config.env.games, gathered, strict=True))
        domain = self.domain
        return ScoreTable.build(
            by_game, domain.normalised_score, domain.score_scale, domain.reference_scores
        )

    def close(self) -> None:
        """Close the environments."""
        if self.env is not None:
            self.env.close()

    def _evaluate(
        self, env: MultiTaskVectorEnv, seed: list[int], num_episodes: int, *, filming: bool
    ) -> Evaluation:
        actor = Actor(self.policy, env.task_id, env.legal_actions, None)
        games = self.config.env.games
        screens = {}
        if filming:
            made = {
                task: self.domain.make_screen(self.config.env, games[task]) for task in self.tasks
            }
            screens = {task: screen for task, screen in made.items() if screen is not None}
        env_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        columns = (
            TextColumn("evaluating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, disable=not self.dist.is_main, transient=True) as progress:
            bar = progress.add_task("", total=None)

            def after_a_step(done: int, wanted: int) -> None:
                progress.update(bar, completed=done, total=wanted)
                if self._stop.asked:
                    raise AskedToStopError

            return evaluate(
                env,
                actor,
                num_episodes,
                env_seed,
                screens=screens,
                on_step=after_a_step,
            )


def write_video(recording: Recording, path: Path) -> None:
    """Write an mp4; pictures are enlarged by whole pixels."""
    import imageio.v2 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    with imageio.get_writer(
        path, fps=recording.frames_per_second, codec="libx264", macro_block_size=2
    ) as writer:
        for frame in recording.frames:
            enlarged = frame.repeat(VIDEO_SCALE, axis=0).repeat(VIDEO_SCALE, axis=1)
            writer.append_data(enlarged)  # type: ignore[attr-defined]  # of the ffmpeg plugin
    logger.info("wrote %s (%d frames)", path, len(recording.frames))
