"""The training loop of PPO: play a round, learn from it, log, evaluate, checkpoint, until the env steps are used up."""

from collections.abc import Mapping, Sequence
from typing import Any

from lzero import checks
from lzero.config_ppo import PPOExperiment
from lzero.distributed import losing_a_rank_is_an_error
from lzero.entry.callbacks import Callback
from lzero.entry.checkpointing import Resume
from lzero.entry.metrics import log_progress, log_rewards
from lzero.entry.ppo_metrics import log_updates
from lzero.entry.ppo_run import PPORun
from lzero.entry.resource_faults import resource_faults_are_run_errors
from lzero.entry.result import TrainResult, check_call, train_to_end
from lzero.entry.stopping import StopRequest
from lzero.envs.domain import read_experiment


def train_ppo_moe(
    config: PPOExperiment | Mapping[str, Any],
    *,
    seed: int = 0,
    max_env_step: int | None = None,
    resume: Resume = "auto",
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train one actor-critic on all games of ``config``, in one process or in every process that torchrun started.

    Args:
        config: the experiment; a dict or EasyDict of the same shape works too.
        seed: of parameters, environments and sampling.
        max_env_step: env steps of the run's clock (:attr:`PPOExperiment.clock_steps`) after which to stop; schedules go by
            the config's own. None takes all.
        resume: as of :func:`~lzero.entry.train_unizero_multitask_segment_ddp`.
        callbacks: as there.

    Raises:
        As :func:`~lzero.entry.train_unizero_multitask_segment_ddp`.
    """
    config = read_experiment(PPOExperiment, config)
    check_call(seed, max_env_step, resume, callbacks)
    if max_env_step is not None:
        checks.count("max_env_step", max_env_step, 1, config.clock_steps)
    limit = max_env_step or config.clock_steps
    with (
        losing_a_rank_is_an_error(),
        resource_faults_are_run_errors(config.run_dir),
        StopRequest() as stop,
        PPORun(
            config,
            seed=seed,
            max_env_steps=limit,
            resume=resume,
            stop=stop,
            callbacks=callbacks,
        ) as run,
    ):
        return train_to_end(run, stop, limit, _one_round, "of the run")


def _one_round(run: PPORun, limit: int) -> None:
    """Play, learn, evaluate.

    Raises:
        AskedToStopError: where the round can be left.
    """
    timer = run.timer
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
        run.callbacks.on_update(result)
        log_progress(run)
        run.stage = "evaluate"

    run.end_round(limit)
