"""The training loop of PPO: play a round, learn from it, log, evaluate, checkpoint, until the env steps are used up."""

from collections.abc import Mapping
from typing import Any

from lzero import checks
from lzero.config_ppo import PPOExperiment
from lzero.distributed import losing_a_rank_is_an_error
from lzero.entry.checkpointing import Resume
from lzero.entry.metrics import log_progress, log_rewards
from lzero.entry.ppo_metrics import log_updates
from lzero.entry.ppo_run import PPORun
from lzero.entry.resource_faults import resource_faults_are_run_errors
from lzero.entry.result import TrainResult, check_call, finish, read_result
from lzero.entry.stopping import AskedToStopError, StopRequest
from lzero.envs.domain import read_experiment


def train_ppo_moe(
    config: PPOExperiment | Mapping[str, Any],
    *,
    seed: int = 0,
    max_env_step: int | None = None,
    resume: Resume = "auto",
) -> TrainResult:
    """Train one actor-critic on all games of ``config``, in one process or in every process that torchrun started.

    Args:
        config: the experiment; a dict or EasyDict of the same shape works too.
        seed: of parameters, environments and sampling.
        max_env_step: env steps of the run's clock (:attr:`PPOExperiment.clock_steps`) after which to stop; schedules go by
            the config's own. None takes all.
        resume: as of :func:`~lzero.entry.train_unizero_multitask_segment_ddp`.

    Raises:
        As :func:`~lzero.entry.train_unizero_multitask_segment_ddp`.
    """
    config = read_experiment(PPOExperiment, config)
    check_call(seed, max_env_step, resume)
    if max_env_step is not None:
        checks.count("max_env_step", max_env_step, 1, config.clock_steps)
    limit = max_env_step or config.clock_steps
    with (
        losing_a_rank_is_an_error(),
        resource_faults_are_run_errors(config.run_dir),
        StopRequest() as stop,
        PPORun(config, seed=seed, max_env_steps=limit, resume=resume, stop=stop) as run,
    ):
        stop.training_begins()
        finished = read_result(run)
        if finished is not None:
            return finished
        try:
            while run.env_steps < limit or run.stage != "collect":
                _one_round(run, limit)
        except AskedToStopError:
            run.save()
            raise stop.stopped(
                f"stopped at {run.env_steps:,} of {limit:,} env steps of the run"
            ) from None
        return finish(run, stop)


def _one_round(run: PPORun, limit: int) -> None:
    """Play, learn, evaluate.

    Raises:
        AskedToStopError: where the round can be left.
    """
    timer, train = run.timer, run.config.train
    if run.stage == "collect":
        run.stop_if_asked()
        with timer("collect"):
            rollout, collected = run.collect()
        first = run.policy.train_iter
        with timer("learn"):
            result = run.learn(rollout)
        run.check_finite(result, rollout)
        with timer("log"):
            log_rewards(run, collected)
            log_updates(run, result, first)
        log_progress(run)
        run.stage = "evaluate"

    evaluated = run.crossed(train.eval_interval) and run.env_steps < limit
    if evaluated:
        with timer("evaluate"):
            run.evaluate()
    run.stage = "collect"
    if evaluated or run.crossed(train.checkpoint_interval) or run.env_steps >= limit:
        with timer("checkpoint"):
            run.save()
