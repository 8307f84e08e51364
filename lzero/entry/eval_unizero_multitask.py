"""Evaluate a checkpoint or an export: a table of scores, and a video per game.

lzero eval runs/atari_cpu_moe
lzero eval released/catch_moe.zip
lzero eval runs/atari_cpu_moe/checkpoints/step_000600 --episodes 20 --no-video
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich
import tyro

from lzero import checks, run_paths
from lzero.checkpoint import CheckpointError, load_state
from lzero.checkpoint.export_file import read_export
from lzero.config import Experiment
from lzero.config_ppo import PPOExperiment
from lzero.device import DeviceError, resolve_device
from lzero.distributed import init_distributed
from lzero.entry.checkpointing import load_policy_state
from lzero.entry.evaluation import GameEvaluator
from lzero.entry.shards import RankShare
from lzero.envs.domain import check_trusted
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.logging import setup_logging
from lzero.policy.exported import config_to_play, policy_from_export
from lzero.policy.ppo_moe import PPOPolicy
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.worker.actor import Actor
from lzero.worker.evaluator import Player
from lzero.worker.rollouts import PolicyPlayer
from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(
    "lzero.entry.eval_unizero_multitask"
)  # __name__ is "__main__" here, whose records are not shown
EVALUATION_FILE = "evaluation.json"
EXPORT_SUFFIX = ".zip"


@dataclass(frozen=True)
class EvalCommand:
    """Evaluate a checkpoint or an exported agent on all its games and write scores and videos beside it."""

    path: tyro.conf.Positional[Path]
    """A run's folder or anything inside it (the newest checkpoint is taken), a checkpoint ``…/checkpoints/step_000123``, or an
    exported zip."""
    episodes: int = 8
    """Episodes per game."""
    simulations: int | None = None
    """Simulations per move; the experiment's own number if not given."""
    seed: int = 0
    """Seed of the evaluation environments."""
    video: bool = True
    """Film the first episode of each game."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; may differ from where the checkpoint was trained."""
    output_dir: Path | None = None
    """Folder for scores and videos; the run's own if not given, and for ``NAME.zip`` ``NAME_results`` beside it."""
    allow_domain: tuple[str, ...] = ()
    """Domains outside of lzero and zoo, as ``module:ATTRIBUTE``, whose code may run because the checkpoint names them."""


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that ``path`` means, as :func:`lzero.run_paths.find_checkpoint` finds it; an export stands for itself.

    Raises:
        TypeError: if it is no path.
        CheckpointError: if there is none, or several runs; nothing is ever evaluated in its stead.
    """
    path = checks.path("path", path)
    if path.is_file() and path.suffix == EXPORT_SUFFIX:  # it may lie in the run's folder
        return path
    try:
        return run_paths.find_checkpoint(path)
    except run_paths.RunPathError as error:
        if path.is_file():  # an export under another name, or what its reader refuses by name
            return path
        raise CheckpointError(str(error)) from error


def results_folder(checkpoint: Path, output_dir: Path | str | None = None) -> Path:
    """Where results of a checkpoint or an export go: into ``output_dir``, the run's folder, or a folder beside the export."""
    if output_dir is not None:
        return checks.path("output_dir", output_dir)
    if checkpoint.is_file():
        return checkpoint.with_name(f"{checkpoint.stem}_results")
    return checkpoint.parent.parent


def state_of_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Counters, shapes and config of a checkpoint's folder or of an export.

    Raises:
        CheckpointError: if something is missing or damaged.
    """
    if checkpoint.is_file():
        export = read_export(checkpoint)
        return {"config": export.config, **export.agent.model_dump()}
    return load_state(checkpoint)


def load_policy(
    checkpoint: Path,
    *,
    device: str = "auto",
    simulations: int | None = None,
    allow_domains: Sequence[str] = (),
) -> UniZeroMTPolicy:
    """The policy of a checkpoint, ready to evaluate.

    Args:
        checkpoint: folder ``step_…``, or an exported zip.
        device: ``auto``, ``cpu`` or ``cuda``.
        simulations: simulations per move when evaluating; None keeps the experiment's.
        allow_domains: of others that an export may name; a checkpoint's is asked for where its games are made.

    Raises:
        ValueError: if ``simulations`` is below 1, or an export's domain is not trusted.
        CheckpointError: if something is missing or damaged.
    """
    if simulations is not None:
        checks.count("simulations", simulations)
    if checkpoint.is_file():
        return policy_from_export(
            UniZeroMTPolicy,
            checkpoint,
            device=device,
            simulations=simulations,
            allow_domains=allow_domains,
        )
    state = load_state(checkpoint)
    config = config_to_play(state["config"], device, simulations)
    policy = UniZeroMTPolicy(
        config, tuple(state["observation_shape"]), np.array(state["legal_actions"], dtype=bool)
    )
    policy.load_state_dict(load_policy_state(checkpoint, policy.device))
    return policy


def load_ppo_policy(checkpoint: Path, *, device: str = "auto") -> PPOPolicy:
    """The PPO policy of a checkpoint, ready to evaluate; arguments and errors as of :func:`load_policy`."""
    state = load_state(checkpoint)
    config = PPOExperiment.model_validate(state["config"] | {"device": device})
    legal = np.array(state["legal_actions"], dtype=bool)
    policy = PPOPolicy(config, tuple(state["observation_shape"]), legal)
    groups = PPOPolicy.state_groups
    policy.load_state_dict(load_policy_state(checkpoint, policy.device, groups))
    return policy


@dataclass(frozen=True)
class LoadedPlayer:
    """The experiment of a checkpoint, its updates, simulations per move (None: it does not search), and who plays for it."""

    config: Experiment
    train_iter: int
    simulations: int | None
    make_player: Callable[[MultiTaskVectorEnv], Player]


def _load_player(
    checkpoint: Path,
    device: str,
    simulations: int | None,
    seed: int,
    allow_domains: Sequence[str],
) -> LoadedPlayer:
    """Whatever algorithm has written a checkpoint.

    Raises:
        ValueError: if simulations are asked of a policy that does not search.
    """
    if checkpoint.is_dir() and load_state(checkpoint)["config"].get("algorithm") == "ppo":
        if simulations is not None:
            raise ValueError(
                f"simulations={simulations}: {checkpoint} is of PPO, which does not search; leave it out"
            )
        actor_critic = load_ppo_policy(checkpoint, device=device)
        config = actor_critic.config
        rng = None if config.policy.greedy_evaluation else np.random.default_rng(seed)
        return LoadedPlayer(
            config,
            actor_critic.train_iter,
            None,
            lambda env: PolicyPlayer(actor_critic, env.task_id, rng),
        )
    policy = load_policy(
        checkpoint, device=device, simulations=simulations, allow_domains=allow_domains
    )
    return LoadedPlayer(
        policy.config,
        policy.train_iter,
        policy.config.policy.search.num_eval_simulations,
        lambda env: Actor(policy, env.task_id, env.legal_actions, None),
    )


def eval_unizero_multitask(
    path: Path | str,
    *,
    episodes: int = 8,
    simulations: int | None = None,
    seed: int = 0,
    video: bool = True,
    device: str = "auto",
    output_dir: Path | str | None = None,
    allow_domains: Sequence[str] = (),
) -> ScoreTable:
    """Play ``episodes`` episodes of every game with the policy of a checkpoint or an export.

    Scores go to ``evaluation.json`` and videos to ``videos/evaluation/`` in ``output_dir``; if it is None in the run's folder,
    for an export ``NAME.zip`` in ``NAME_results`` beside it.

    Raises:
        TypeError: if a path is none, or a number is no whole one.
        CheckpointError: if ``path`` holds no checkpoint, or a damaged one.
        ValueError: for numbers out of range, simulations of what does not search, or if the checkpoint's domain is neither of
            this project nor among ``allow_domains``.
    """
    path = checks.path("path", path)
    checks.count("episodes", episodes)
    if simulations is not None:
        checks.count("simulations", simulations)
    checks.count("seed", seed, 0)
    dist = init_distributed(resolve_device(device))
    checkpoint = find_checkpoint(path)
    folder = results_folder(checkpoint, output_dir)
    loaded = _load_player(checkpoint, device, simulations, seed, allow_domains)
    config = loaded.config
    check_trusted(config.env.domain, allow_domains, config.env.games)
    everything = RankShare(tuple(range(config.num_tasks)), (), (), (0,) * config.num_tasks)
    evaluator = GameEvaluator(config, loaded.make_player, dist, everything, kept_in=folder)
    try:
        table = evaluator.run(
            [seed, loaded.train_iter],
            episodes,
            folder / "videos" / "evaluation" if video else None,
        )
    finally:
        evaluator.close()
    report = {
        "checkpoint": checkpoint.name,
        "simulations": loaded.simulations,
        "seed": seed,
        "scores": {game: scores.tolist() for game, scores in table.scores.items()},
        "normalised": dict(table.normalised),
        "aggregates": table.aggregates(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVALUATION_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    logger.info("wrote %s", folder / EVALUATION_FILE)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; ``argv`` None takes the program's arguments."""
    command = tyro.cli(EvalCommand, prog="lzero eval", args=argv)
    setup_logging(is_main=True)
    try:
        table = eval_unizero_multitask(
            command.path,
            episodes=command.episodes,
            simulations=command.simulations,
            seed=command.seed,
            video=command.video,
            device=command.device,
            output_dir=command.output_dir,
            allow_domains=command.allow_domain,
        )
    except (CheckpointError, DeviceError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    rich.get_console().print(table.render(f"evaluation of {command.path}"))


if __name__ == "__main__":
    main()
