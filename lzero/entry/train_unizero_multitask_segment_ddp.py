"""The training loop: collect, learn, log, evaluate, checkpoint, until the env steps are used up."""

from collections.abc import Mapping, Sequence
from typing import Any

from lzero.config import ExperimentConfig
from lzero.distributed import losing_a_rank_is_an_error
from lzero.entry.callbacks import Callback
from lzero.entry.checkpointing import Resume
from lzero.entry.metrics import log_collected, log_progress, log_update
from lzero.entry.resource_faults import resource_faults_are_run_errors
from lzero.entry.result import TrainResult, check_call, train_to_end
from lzero.entry.run import Run
from lzero.entry.stopping import StopRequest
from lzero.envs.domain import with_domain_settings


def train_unizero_multitask_segment_ddp(
    config: ExperimentConfig | Mapping[str, Any],
    *,
    seed: int = 0,
    max_env_step: int | None = None,
    resume: Resume = "auto",
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train one agent on all games of ``config``, in one process or in every process that torchrun started.

    Args:
        config: the experiment; a dict or EasyDict of the same shape works too.
        seed: of parameters, environments, search and sampling.
        max_env_step: env steps per game; None takes ``config.train.max_env_steps``.
        resume: ``auto`` continues from the newest checkpoint of the run that can be read, if there is one; ``never`` refuses
            where there is one; a path continues from that checkpoint.
        callbacks: what is told of rounds, updates, evaluations, checkpoints and the end, on every rank, and may end the run;
            see :class:`~lzero.entry.Callback`.

    Raises:
        pydantic.ValidationError: if the config is not valid.
        TypeError: if the seed, ``max_env_step`` or ``resume`` is of another type.
        ValueError: if the seed or ``max_env_step`` is out of range.
        RunError: if the run's folder holds another experiment, cannot be resumed as asked, or cannot be written.
        FloatingPointError: if the loss or its gradient stops being a number.
        RankLostError: if another process of the run has ended or does not answer.
        StoppedError: after Ctrl-C or SIGTERM, a KeyboardInterrupt with a checkpoint behind it.
        Exception: what a callback has raised, with a checkpoint behind it.
    """
    config = with_domain_settings(config)
    check_call(seed, max_env_step, resume, callbacks)
    limit = max_env_step or config.train.max_env_steps
    with (
        losing_a_rank_is_an_error(),
        resource_faults_are_run_errors(config.run_dir),
        StopRequest() as stop,
        Run(
            config,
            seed=seed,
            max_env_steps=limit,
            resume=resume,
            stop=stop,
            callbacks=callbacks,
        ) as run,
    ):
        return train_to_end(run, stop, limit, _one_round, "per game")


def _one_round(run: Run, limit: int) -> None:
    """Collect, learn, evaluate; a round that was left before its end goes on where it stood.

    Raises:
        AskedToStopError: where the round can be left.
    """
    timer = run.timer
    if run.stage == "collect":
        with timer("collect"):
            collected = run.collect()
        log_collected(run, collected)
        run.stage = "learn"

    if run.stage == "learn":
        result = None
        for _ in range(run.updates_due()):
            run.stop_if_asked()
            with timer("sample"):
                windows = run.sample()
            with timer("learn"):
                result = run.policy.learn(windows)
            run.prioritise(windows, result)
            with timer("log"):
                log_update(run, result, windows)
            run.callbacks.on_update(result)
        if result is not None:
            run.check_finite(result, windows)
        log_progress(run)
        run.stage = "evaluate"

    run.end_round(limit)
