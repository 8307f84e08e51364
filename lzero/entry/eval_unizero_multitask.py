"""Evaluate a checkpoint: a table of scores, and a video per game.

python -m lzero.entry.eval_unizero_multitask runs/atari_cpu_moe
python -m lzero.entry.eval_unizero_multitask runs/atari_cpu_moe/checkpoints/step_000600 --episodes 20 --no-video
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rich
import tyro

from lzero import checks
from lzero.checkpoint import CheckpointError, list_checkpoints, load_state
from lzero.config import Experiment, ExperimentConfig
from lzero.config_ppo import PPOExperiment
from lzero.device import resolve_device
from lzero.distributed import init_distributed
from lzero.entry.checkpointing import load_policy_state
from lzero.entry.evaluation import GameEvaluator
from lzero.entry.shards import RankShare
from lzero.envs.domain import check_trusted
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.logging import setup_logging
from lzero.policy.ppo_moe import PPOPolicy
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.worker.actor import Actor
from lzero.worker.evaluator import Player
from lzero.worker.rollouts import PolicyPlayer
from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(
    "lzero.entry.eval_unizero_multitask"
)  # __name__ is "__main__" here, whose records are not shown


@dataclass(frozen=True)
class EvalCommand:
    """Evaluate a checkpoint on all its games and write scores and videos beside it."""

    path: tyro.conf.Positional[Path]
    """A run's folder (its newest checkpoint is taken) or one checkpoint ``…/checkpoints/step_000123``."""
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
    allow_domain: tuple[str, ...] = ()
    """Domains outside of lzero and zoo, as ``module:ATTRIBUTE``, whose code may run because the checkpoint names them."""


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that ``path`` means.

    Raises:
        CheckpointError: if there is none; nothing is ever evaluated in its stead.
    """
    path = checks.path("path", path)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} does not exist; name a run's folder, e.g. runs/atari_cpu_moe, or one of its checkpoints"
        )
    for directory in (path / "checkpoints", path):
        checkpoints = list_checkpoints(directory)
        if checkpoints:
            return checkpoints[-1]
    if (path / "model.safetensors").is_file():
        return path
    raise CheckpointError(
        f"{path} holds no checkpoint; expected {path}/checkpoints/step_… or a step_… folder itself"
    )


def load_policy(
    checkpoint: Path, *, device: str = "auto", simulations: int | None = None
) -> UniZeroMTPolicy:
    """The policy of a checkpoint, ready to evaluate.

    Args:
        checkpoint: folder ``step_…``.
        device: ``auto``, ``cpu`` or ``cuda``.
        simulations: simulations per move when evaluating; None keeps the experiment's.

    Raises:
        ValueError: if ``simulations`` is below 1.
        CheckpointError: if something is missing or damaged.
    """
    if simulations is not None:
        checks.count("simulations", simulations)
    state = load_state(checkpoint)
    data = state["config"] | {"device": device}
    data["policy"]["gradient_aggregator"] = (
        "mean"  # nothing is learned: no package is needed for that
    )
    if simulations is not None:
        data["policy"]["search"]["num_eval_simulations"] = simulations
    config = ExperimentConfig.model_validate(data)
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


def _load_player(checkpoint: Path, device: str, simulations: int | None, seed: int) -> LoadedPlayer:
    """Whatever algorithm has written a checkpoint.

    Raises:
        ValueError: if simulations are asked of a policy that does not search.
    """
    if load_state(checkpoint)["config"].get("algorithm") == "ppo":
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
    policy = load_policy(checkpoint, device=device, simulations=simulations)
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
    allow_domains: Sequence[str] = (),
) -> ScoreTable:
    """Play ``episodes`` episodes of every game with the policy of a checkpoint.

    Scores go to ``evaluation.json`` and videos to ``videos/evaluation/`` in the run's folder.

    Raises:
        TypeError: if ``path`` is none, or a number is no whole one.
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
    loaded = _load_player(checkpoint, device, simulations, seed)
    config = loaded.config
    check_trusted(config.env.domain, allow_domains, config.env.games)
    everything = RankShare(tuple(range(config.num_tasks)), (), (), (0,) * config.num_tasks)
    run_dir = checkpoint.parent.parent
    evaluator = GameEvaluator(config, loaded.make_player, dist, everything, kept_in=run_dir)
    try:
        table = evaluator.run(
            [seed, loaded.train_iter],
            episodes,
            run_dir / "videos" / "evaluation" if video else None,
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
    (run_dir / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    logger.info("wrote %s", run_dir / "evaluation.json")
    return table


def main() -> None:
    """Command line."""
    command = tyro.cli(EvalCommand)
    setup_logging(is_main=True)
    try:
        table = eval_unizero_multitask(
            command.path,
            episodes=command.episodes,
            simulations=command.simulations,
            seed=command.seed,
            video=command.video,
            device=command.device,
            allow_domains=command.allow_domain,
        )
    except (CheckpointError, ImportError, ValueError) as error:
        sys.exit(f"error: {error}")
    rich.get_console().print(table.render(f"evaluation of {command.path}"))


if __name__ == "__main__":
    main()
