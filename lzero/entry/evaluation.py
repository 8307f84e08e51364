"""Evaluating a policy inside a run or from a checkpoint: environments, episodes, table, videos."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lzero import checks
from lzero.config import Experiment
from lzero.distributed import Distributed
from lzero.entry.shards import RankShare
from lzero.entry.stopping import AskedToStopError, StopRequest
from lzero.envs.domain import Domain, MeasuredDomain, load_domain
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.envs.random_scores import RandomScore, read_random_scores, write_random_scores
from lzero.worker.evaluator import Evaluation, Film, Player, evaluate
from lzero.worker.random_policy import measure_random_policy
from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(__name__)
Played = TypeVar("Played")
VIDEO_SCALE = 2  # screen pixels per game pixel
RANDOM_SEED = 0  # of the random policy: all seeds of an experiment are told by the same scale


def video_name(game: str, games: Sequence[str]) -> str:
    """File of a game's video: ``ALE_Pong-v5.mp4`` of ``ALE/Pong-v5``; no two of a run's ``games`` share one."""
    plain = game.replace("/", "_")
    alike = [other for other in games if other.replace("/", "_") == plain]
    if alike and game != alike[0]:
        plain += f"_{alike.index(game) + 1}"
    return f"{plain}.mp4"


class GameEvaluator:
    """Evaluates the tasks of a rank and brings the scores of all ranks together.

    A task that several ranks share is evaluated by the first of them.

    Args:
        config: the experiment.
        make_player: who plays environments; neither parameters nor any training generator change by it.
        dist: process group.
        share: tasks of this rank.
        stop: who may ask for an end before all episodes are played; None for nobody.
        kept_in: the run's folder, where a random policy's scores are kept if the domain knows none; None measures none.
    """

    def __init__(
        self,
        config: Experiment,
        make_player: Callable[[MultiTaskVectorEnv], Player],
        dist: Distributed,
        share: RankShare,
        stop: StopRequest | None = None,
        kept_in: Path | None = None,
    ) -> None:
        self.config, self._make_player, self.dist = config, make_player, dist
        self._stop = stop or StopRequest()
        self._kept_in = kept_in
        pairs = zip(share.task_ids, share.env_offset, strict=True)
        self.tasks = tuple(task for task, offset in pairs if offset == 0)
        self.domain = load_domain(config.env.domain)
        self._scored: Domain | None = None  # the domain, once it can tell scores
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
            games = config.env.games
            limits = {task: config.env.step_limit_of(games[task]) for task in self.tasks}
            self.env.limit_episodes(limits)

    def run(self, seed: list[int], num_episodes: int, video_dir: Path | None) -> ScoreTable:
        """Play ``num_episodes`` episodes of every task; with ``video_dir`` film the first of each.

        Returns:
            The same table on every rank.

        Raises:
            AskedToStopError: on all ranks, if one was asked to stop meanwhile. It ends at its next move, the others with
                their episodes: launchers tell all of them.
        """
        domain = self._domain_with_scores()
        scores = np.full((self.config.num_tasks, num_episodes), np.nan)
        stopped = False
        if self.env is not None:
            try:
                result = self._evaluate(self.env, seed, num_episodes, video_dir)
            except AskedToStopError:
                stopped = True
            else:
                scores[list(self.tasks)] = result.score
                self._say_what_was_cut(result)
        if self.dist.any(stopped):
            raise AskedToStopError
        gathered = np.nanmax(np.stack([*self.dist.all_gather_array(scores)]), axis=0)
        by_game = dict(zip(self.config.env.games, gathered, strict=True))
        return ScoreTable.build(
            by_game, domain.normalised_score, domain.score_scale, domain.reference_scores
        )

    def _domain_with_scores(self) -> Domain:
        """The domain, with what a random policy gets where it does not know that itself; collective.

        Raises:
            AskedToStopError: on all ranks, if one was asked to stop meanwhile.
        """
        if self._scored is None:
            self._scored = self.domain
            if isinstance(self.domain, MeasuredDomain) and self._kept_in is not None:
                self._scored = None  # unless all goes well
                self._scored = self.domain.with_random_scores(self._random_scores(self._kept_in))
        return self._scored

    def _random_scores(self, folder: Path) -> dict[str, RandomScore]:
        """What a random policy gets, from the run's folder, or measured, each game by the rank that evaluates it, and kept."""
        games = self.config.env.games
        limits = {game: self.config.env.step_limit_of(game) for game in games}
        kept = read_random_scores(folder, limits)
        known = self._of_all_ranks(kept)
        if len(known) == len(games):
            return known
        measured: dict[str, RandomScore] = {}
        stopped = False
        if self.env is not None:
            logger.info("playing at random, for the scale of scores")
            try:
                by_task = self._with_a_bar(
                    "playing at random",
                    partial(measure_random_policy, self.env, RANDOM_SEED),
                )
            except AskedToStopError:
                stopped = True
            else:
                measured = {games[task]: score for task, score in by_task.items()}
        if self.dist.any(stopped):
            raise AskedToStopError
        known = self._of_all_ranks(measured | known)
        if self.dist.is_main:
            write_random_scores(folder, known, limits)
        return known

    def _of_all_ranks(self, scores: Mapping[str, RandomScore]) -> dict[str, RandomScore]:
        """What any rank knows, by game, the same on all ranks."""
        games = self.config.env.games
        mine = np.full((len(games), 4), np.nan)
        for task, game in enumerate(games):
            if game in scores:
                score = scores[game]
                mine[task] = score.mean, score.std, score.episodes, score.cut
        found: dict[str, RandomScore] = {}
        for of_rank in self.dist.all_gather_array(mine):
            for game, (mean, std, episodes, cut) in zip(games, of_rank, strict=True):
                if game not in found and np.isfinite(mean):
                    found[game] = RandomScore(float(mean), float(std), int(episodes), int(cut))
        return found

    def _say_what_was_cut(self, result: Evaluation) -> None:
        for row, task in enumerate(self.tasks):
            cut = int(result.cut[row])
            if cut:  # the game's own limit may be shorter than env.max_episode_steps
                logger.info(
                    "%d of %d episodes of %s were cut by the time limit, after %s env steps",
                    cut,
                    result.score.shape[1],
                    self.config.env.games[task],
                    f"{result.length[row].max():,}",
                )

    def close(self) -> None:
        """Close the environments."""
        if self.env is not None:
            self.env.close()

    def _evaluate(
        self, env: MultiTaskVectorEnv, seed: list[int], num_episodes: int, video_dir: Path | None
    ) -> Evaluation:
        with ExitStack() as videos:
            films = {} if video_dir is None else self._films(video_dir, videos)
            return self._play(env, seed, num_episodes, films)

    def _films(self, video_dir: Path, videos: ExitStack) -> dict[int, Film]:
        """Films of the tasks that have a screen; their files are closed with ``videos``."""
        films = {}
        for task in self.tasks:
            game = self.config.env.games[task]
            screen = self.domain.make_screen(self.config.env, game)
            if screen is not None:
                name = video_name(game, self.config.env.games)
                file = VideoFile(video_dir / name, screen.frames_per_second)
                films[task] = Film(screen, videos.enter_context(file).write)
        return films

    def _play(
        self,
        env: MultiTaskVectorEnv,
        seed: list[int],
        num_episodes: int,
        films: Mapping[int, Film],
    ) -> Evaluation:
        actor = self._make_player(env)
        env_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        return self._with_a_bar(
            "evaluating", partial(evaluate, env, actor, num_episodes, env_seed, films=films)
        )

    def _with_a_bar(self, what: str, play: Callable[..., Played]) -> Played:
        """``play(on_step=…)``, shown while it lasts.

        Raises:
            AskedToStopError: if somebody asks for an end before.
        """
        columns = (
            TextColumn(what),
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

            return play(on_step=after_a_step)


class VideoFile:
    """An mp4 that is written picture by picture, and is there under its name when it is whole; pictures are enlarged by whole
    pixels.

    Args:
        path: of the file.
        frames_per_second: how fast it is shown.

    Raises:
        ValueError: if that is not above 0.
    """

    def __init__(self, path: Path, frames_per_second: int) -> None:
        checks.number("frames_per_second", frames_per_second, 0.0, above=True)
        self.path, self.frames_per_second = path, frames_per_second
        self._unfinished = path.with_name(f".unfinished_{path.name}")
        self.frames = 0

    def __enter__(self) -> Self:
        import imageio.v2 as imageio

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = imageio.get_writer(
            self._unfinished, fps=self.frames_per_second, codec="libx264", macro_block_size=2
        )
        return self

    def write(self, frame: np.ndarray) -> None:
        """Add a picture ``(height, width, 3)`` uint8."""
        enlarged = frame.repeat(VIDEO_SCALE, axis=0).repeat(VIDEO_SCALE, axis=1)
        self._writer.append_data(enlarged)  # type: ignore[attr-defined]  # of the ffmpeg plugin
        self.frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()
        if error is None:
            self._unfinished.replace(self.path)
            logger.info("wrote %s (%d frames)", self.path, self.frames)
        else:
            self._unfinished.unlink(missing_ok=True)
