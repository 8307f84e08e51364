"""Put a trained agent into one file: weights, config, scores, model card and hashes, without pickle.

python -m lzero.entry.export runs/catch_moe catch_moe.zip
python -m lzero.entry.export runs/catch_moe/checkpoints/step_000600 catch_moe.zip --license Apache-2.0 --force

The scores are those of the last evaluation of the very checkpoint: evaluate it first. Equal checkpoints, scores and options
give equal bytes.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from pydantic import ValidationError
from safetensors.torch import save as bytes_of_tensors

from lzero import checks, tags
from lzero.checkpoint import CheckpointError, load_state, load_tensors, read_manifest
from lzero.checkpoint.export_file import (
    AGENT_FILE,
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    SCORES_FILE,
    AgentRecord,
    ExportError,
    write_export,
)
from lzero.config import ExperimentConfig
from lzero.entry.eval_unizero_multitask import EVALUATION_FILE, find_checkpoint
from lzero.entry.model_card import CardFacts, model_card
from lzero.envs.domain import check_trusted, load_domain
from lzero.logging import read_metrics, setup_logging
from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(
    "lzero.entry.export"
)  # __name__ is "__main__" here, whose records are not shown
ANYWHERE = "runs"
"""Where runs are written by default; the folder of the training is nobody's business."""


@dataclass(frozen=True)
class ExportCommand:
    """Put a trained UniZero agent into one zip: weights (safetensors), config, scores, model card, SHA-256 of each."""

    path: tyro.conf.Positional[Path]
    """A run's folder (its newest checkpoint is taken) or one checkpoint ``…/checkpoints/step_000123``."""
    out: tyro.conf.Positional[Path]
    """The zip to write."""
    force: bool = False
    """Replace the zip if it exists."""
    command: str | None = None
    """The command that trained it, for the card."""
    license: str | None = None
    """Of the weights, for the card, e.g. Apache-2.0; the card says that nobody stated one if not given."""
    note: tuple[str, ...] = ()
    """Sentences for the card's limits, such as what differs from a preset."""
    allow_domain: tuple[str, ...] = ()
    """Domains outside of lzero and zoo, as ``module:ATTRIBUTE``, whose code may run because the checkpoint names them."""


@dataclass(frozen=True)
class _Scored:
    """Episodes of an evaluation: returns by game, and what made them."""

    scores: dict[str, list[float]]
    seed: list[int]
    simulations: int | None
    how: str


def export_agent(
    path: Path | str,
    out: Path | str,
    *,
    force: bool = False,
    command: str | None = None,
    license: str | None = None,
    notes: Sequence[str] = (),
    allow_domains: Sequence[str] = (),
) -> str:
    """Write the agent of a checkpoint to one zip, whole or not at all.

    Args:
        path: a run's folder, or a checkpoint.
        out: the zip; its folder must exist.
        force: whether it may replace a file.
        command: that trained the agent, for the card.
        license: of the weights, for the card.
        notes: sentences for the card's limits.
        allow_domains: of others, whose code may run.

    Returns:
        Hexadecimal SHA-256 of the zip.

    Raises:
        TypeError: if a path is none.
        CheckpointError: if there is no checkpoint, or it is damaged.
        ExportError: if the zip exists or cannot be written, or the checkpoint is of PPO.
        ValueError: if the checkpoint's domain is neither of this project nor among ``allow_domains``.
    """
    path, out = checks.path("path", path), checks.path("out", out)
    checkpoint = find_checkpoint(path)
    if checkpoint.is_file():
        raise ExportError(f"{path} is a file; name a run's folder or one of its checkpoints")
    if not out.parent.is_dir():
        raise ExportError(f"{out.parent} is no folder; make it first, or name another file")
    state = load_state(checkpoint)
    if state["config"].get("algorithm") == "ppo":
        raise ExportError(f"{checkpoint} is of PPO: only UniZero agents can be exported")
    data = state["config"] | {"output_dir": ANYWHERE}
    try:
        config = ExperimentConfig.model_validate(data)
        agent = _record(checkpoint, state)
    except (LookupError, ValidationError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint {checkpoint}: its state is damaged: {why}") from error
    check_trusted(config.env.domain, allow_domains, config.env.games)
    tensors = load_tensors(checkpoint, "model")
    scored = _last_evaluation(checkpoint, config, state["train_iter"])
    table, content = None, None
    if scored is None:
        logger.warning(
            "no evaluation of %s is on record, and the card says so; evaluate it first: python -m "
            "lzero.entry.eval_unizero_multitask %s --episodes 32",
            checkpoint,
            checkpoint,
        )
    else:
        table = _table(config, scored)
        content = {
            "scores": scored.scores,
            "normalised": dict(table.normalised),
            "scale": table.scale,
            "aggregates": table.aggregates(),
            "seed": scored.seed,
            "simulations": scored.simulations,
            "how": scored.how,
        }
    facts = CardFacts(
        agent=agent,
        num_parameters=sum(tensor.numel() for tensor in tensors.values()),
        table=table,
        how_scored="" if scored is None else scored.how,
        command=command,
        license=license,
        notes=tuple(notes),
    )
    files = {
        CARD_FILE: model_card(config, facts).encode(),
        AGENT_FILE: _json(agent.model_dump(mode="json")),
        CONFIG_FILE: _json(data),
        MODEL_FILE: bytes_of_tensors(tensors),
    }
    if content is not None:
        files[SCORES_FILE] = _json(content)
    digest = write_export(out, files, force=force)
    logger.info("wrote %s (%s bytes, SHA-256 %s)", out, f"{out.stat().st_size:,}", digest)
    return digest


def _record(checkpoint: Path, state: Mapping[str, Any]) -> AgentRecord:
    """What an export keeps of a checkpoint's state.

    Raises:
        LookupError: if something is missing.
        ValidationError: if something is of another kind.
    """
    return AgentRecord(
        checkpoint=checkpoint.name,
        train_iter=state["train_iter"],
        env_steps=state["env_steps"],
        seed=state["seed"],
        world_size=state["world_size"],
        observation_shape=state["observation_shape"],
        legal_actions=state["legal_actions"],
        return_scale=state.get("return_scale"),
        versions=read_manifest(checkpoint).versions | _own_version(),
    )


def _own_version() -> dict[str, str]:
    """Version of this library, if it is installed; a checkpoint does not say with which it was written."""
    try:
        return {"lzero (export)": version("lzero")}
    except PackageNotFoundError:
        return {}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _table(config: ExperimentConfig, scored: _Scored) -> ScoreTable:
    """Scores on the games' common scale, beside known ones."""
    domain = load_domain(config.env.domain)
    scores = {game: np.array(values) for game, values in scored.scores.items()}
    return ScoreTable.build(
        scores, domain.normalised_score, domain.score_scale, domain.reference_scores
    )


def _last_evaluation(checkpoint: Path, config: ExperimentConfig, train_iter: int) -> _Scored | None:
    """The last evaluation of the very checkpoint: that of the eval command, or else the run's own; None if there is none.

    Raises:
        CheckpointError: if a record of one cannot be read.
    """
    run_dir, games = checkpoint.parent.parent, config.env.games
    try:
        file = run_dir / EVALUATION_FILE
        if file.is_file():
            report = json.loads(file.read_text(encoding="utf-8"))
            if report["checkpoint"] == checkpoint.name:
                scores = {}
                for game in games:
                    scores[game] = [float(score) for score in report["scores"][game]]
                episodes = len(scores[games[0]])
                how = (
                    "Evaluated by `python -m lzero.entry.eval_unizero_multitask RUN "
                    f"--episodes {episodes} --seed {report['seed']}` with {report['simulations']} simulations per move."
                )
                return _Scored(scores, [int(report["seed"])], int(report["simulations"]), how)
        file = run_dir / "metrics.jsonl"
        if file.is_file():
            for line in reversed(read_metrics(file)):
                arrays = line.get("arrays", {})
                found = [arrays.get(tags.of_game(tags.EVAL_SCORES, game)) for game in games]
                if line["train_iter"] == train_iter and None not in found:
                    scores = {}
                    for game, values in zip(games, found, strict=True):
                        scores[game] = [float(score) for score in values]
                    simulations = config.policy.search.num_eval_simulations
                    how = f"Evaluated by the training itself at its end or between, with {simulations} simulations per move."
                    return _Scored(scores, [], simulations, how)
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}); evaluate the checkpoint again"
        ) from error
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; None takes the program's arguments."""
    command = tyro.cli(ExportCommand, prog="python -m lzero.entry.export", args=argv)
    setup_logging(is_main=True)
    try:
        export_agent(
            command.path,
            command.out,
            force=command.force,
            command=command.command,
            license=command.license,
            notes=command.note,
            allow_domains=command.allow_domain,
        )
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
