"""What a run logs, and when: collecting, updates, analysis, phase times."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from lzero import tags
from lzero.analysis.conflict_log import log_gradient_conflicts
from lzero.analysis.expert_log import log_expert_selection
from lzero.policy.metrics import (
    LearnResult,
    count_metrics,
    health_metrics,
    plasticity_metrics,
    update_metrics,
)
from lzero.policy.open_loop import open_loop_errors
from lzero.worker.health import HealthSums

if TYPE_CHECKING:
    from lzero.entry.life import RunLife
    from lzero.entry.run import Run
    from lzero.replay.windows import ReplayWindows


logger = logging.getLogger(__name__)

# Share of a game's returns at the limit that a user should know of.
MUCH_SATURATED = 0.01


def log_collected(run: "Run", collected: np.ndarray) -> None:
    """Log the reward of one round of collecting and the episodes that ended in it, and what rewards are divided by;
    collective. Arguments as of :func:`log_rewards`.
    """
    log_rewards(run, collected)
    if run.return_scale is not None:
        scales = zip(run.config.env.games, run.return_scale.by_task().tolist(), strict=True)
        run.log({f"collect_return_scale/{game}": scale for game, scale in scales})


def log_rewards(run: "RunLife", collected: np.ndarray) -> None:
    """Log the reward of one round of collecting and the episodes that ended in it; collective.

    Args:
        run: the run.
        collected: sums of this rank, as :meth:`~lzero.worker.collector.Collected.sums` has them.
    """
    games = run.config.env.games
    reward, steps, score, length, count = np.sum(run.dist.all_gather_array(collected), axis=0)
    run.reward_rate.add(reward, steps)
    metrics = {}
    rates = run.reward_rate.by_game()
    for task in np.flatnonzero(steps):  # games that were played in this round
        metrics[tags.of_game(tags.COLLECT_REWARD, games[task])] = rates[games[task]]
    for task in np.flatnonzero(count):
        run.last_returns[games[task]] = score[task] / count[task]
        metrics[tags.of_game(tags.COLLECT_RETURN, games[task])] = score[task] / count[task]
        metrics[f"collect_length/{games[task]}"] = length[task] / count[task]
    run.log(metrics)


def log_update(run: "Run", result: LearnResult, windows: "ReplayWindows") -> None:
    """Log what is due after an update; collective."""
    train, games, is_main = run.config.train, run.config.env.games, run.dist.is_main
    env_steps, train_iter = run.env_steps, run.policy.train_iter
    if train_iter % train.log_interval == 0:
        _log_numbers(run, result, windows)
    if result.measured is not None:
        with run.timer("analyse"):
            conflicts = result.conflicts()
        run.measured["conflict"] = env_steps
        log_gradient_conflicts(
            *(run.logger, conflicts, games, env_steps, train_iter),
            is_main=is_main,
            drawing=run.drawing["conflict"],
            limit=run.config.policy.conflict_color_limit,
        )
    if train.moe_log_interval and train_iter % train.moe_log_interval == 0:
        log_experts(run)


def log_experts(run: "RunLife") -> None:
    """Log the expert selection, and how far it has moved since it was last logged; collective."""
    statistics = run.policy.expert_statistics
    with run.timer("analyse"):
        selection = statistics.reduced()
    run.measured["experts"] = run.env_steps
    log_expert_selection(
        run.logger,
        selection,
        run.config.env.games,
        run.env_steps,
        run.policy.train_iter,
        is_main=run.dist.is_main,
        drawing=run.drawing["experts"],
        before=statistics.logged,
        draws_per_update=statistics.draws_per_update,
    )
    statistics.logged = selection


def _log_numbers(run: "Run", result: LearnResult, windows: "ReplayWindows") -> None:
    """Numbers of an update, and the health of what it works with."""
    metrics = update_metrics(run.policy, result)
    metrics["replay/age"] = windows.age.float().mean().item()
    counted = count_metrics(run.policy, result)
    _warn_of_saturation(run, counted)
    metrics |= counted
    metrics |= health_metrics(run.policy, windows)
    sums = run.dist.all_gather_array(run.health.take().stack())  # of acting since the last call
    metrics |= HealthSums(*np.sum(sums, axis=0)).metrics(run.config.env.games)
    with run.timer("analyse"):
        metrics |= plasticity_metrics(run.policy, windows, result)
        metrics |= open_loop_errors(run.policy, windows)
    metrics |= run.rates.pop(run.of_all_games(run.env_steps), run.policy.train_iter)
    run.log(metrics)


def _warn_of_saturation(run: "Run", counted: dict[str, float]) -> None:
    """Say it once for each game."""
    for game in run.config.env.games:
        share = counted.get(tags.of_game(tags.SATURATED, game), 0.0)
        if share > MUCH_SATURATED and game not in run.warned and run.dist.is_main:
            run.warned.add(game)
            logger.warning(
                "%.0f %% of %s's returns are at the limit of what values can say, %s: use --policy.scale-returns, clip its "
                "rewards (env.clip_reward), or raise model.support_limit in a new run",
                100 * share,
                game,
                f"{run.policy.support.largest:,.0f}",
            )


def log_progress(run: "RunLife") -> None:
    """Log phase times and refresh the progress display."""
    times = run.timer.pop()
    run.log(times | run.checkpoint_size)
    run.checkpoint_size = {}
    run.callbacks.on_round()
    run.progress.update(
        run.of_all_games(run.env_steps),
        run.policy.train_iter,
        times,
        run.last_returns,
        run.reward_rate.by_game(),
    )
