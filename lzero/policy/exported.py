"""A policy from an export: its config, its online network, and nothing of the training behind it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from lzero import checks
from lzero.checkpoint.export_file import Export, ExportError, read_export
from lzero.checks import check_trusted
from lzero.config import ExperimentConfig
from lzero.device import resolve_device
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.policy.state import is_finite

if TYPE_CHECKING:
    from lzero.policy.unizero_multitask import UniZeroMTPolicy

P = TypeVar("P", bound="UniZeroMTPolicy")


def config_to_play(
    data: Mapping[str, Any], device: str, simulations: int | None
) -> ExperimentConfig:
    """The experiment of stored JSON values, for playing with what it has trained.

    Args:
        data: fields of an experiment.
        device: ``auto``, ``cpu`` or ``cuda``, in place of the one it was trained on.
        simulations: per move when evaluating; None keeps the experiment's.
    """
    # nothing is learned: no package is needed for aggregating gradients
    policy = dict(data["policy"]) | {"gradient_aggregator": "mean"}
    if simulations is not None:
        policy["search"] = dict(policy["search"]) | {"num_eval_simulations": simulations}
    return ExperimentConfig.model_validate(dict(data) | {"device": device, "policy": policy})


def policy_from_export(
    kind: type[P],
    path: Path | str,
    *,
    device: str = "auto",
    simulations: int | None = None,
    allow_domains: Collection[str] = (),
) -> P:
    """The agent of an export, ready to play; both its networks are the exported one, its optimizer is a fresh one.

    Args:
        kind: class of the policy.
        path: of a zip that ``lzero.entry.export`` has written; all of it is verified before anything is made of it.
        device: ``auto``, ``cpu`` or ``cuda``; may differ from where it was trained.
        simulations: per move when evaluating; None keeps the experiment's.
        allow_domains: domains outside of lzero and zoo, as ``module:ATTRIBUTE``, that the file may name.

    Raises:
        TypeError: if ``path`` is no path.
        ExportError: if it is no export, is damaged, of another format version, or does not fit its own config.
        ValueError: if its domain is not trusted, ``simulations`` is below 1, or the device is unknown.
    """
    if simulations is not None:
        checks.count("simulations", simulations)
    resolve_device(device)
    export = read_export(path)
    path = export.path
    try:
        config = config_to_play(export.config, device, simulations)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ExportError(
            f"{path}: config.json: {place}: {' '.join(first['msg'].split())}"
        ) from error
    except (LookupError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: config.json lacks a section of an experiment") from error
    check_trusted(config.env.domain, allow_domains, config.env.games)
    try:
        legal = np.array(export.agent.legal_actions, dtype=bool)
        if legal.ndim != 2 or len(legal) != config.num_tasks:
            raise ValueError(
                f"legal_actions are of shape {legal.shape}, games are {config.num_tasks}"
            )
        _check_shapes(config, export, legal.shape[1])
        policy = kind(config, export.agent.observation_shape, legal)
        policy.model.load_state_dict(export.tensors)
        policy.target.load_state_dict(export.tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ExportError(f"{path}: its tensors do not fit its config: {why}") from error
    if not is_finite(policy):
        raise ExportError(f"{path}: some of its parameters are no numbers")
    policy.train_iter = export.agent.train_iter
    return policy


def _check_shapes(config: ExperimentConfig, export: Export, num_actions: int) -> None:
    """Refuse a config whose network is another than the tensors', before any memory is taken for it.

    Raises:
        ValueError: naming the first tensor that differs.
    """
    if config.model.num_layers > len(export.tensors):  # each has several tensors
        raise ValueError(
            f"model.num_layers={config.model.num_layers:,} with {len(export.tensors)} tensors"
        )
    with torch.device("meta"):
        model = UniZeroMTModel(
            config.model, export.agent.observation_shape, num_actions, config.num_tasks
        )
    wanted = model.state_dict()
    for name in wanted.keys() ^ export.tensors.keys():
        raise ValueError(f"{name!r} is of {'the config' if name in wanted else 'the file'} alone")
    for name, tensor in wanted.items():
        found = export.tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise ValueError(
                f"{name!r} is {found.dtype} {tuple(found.shape)}, wanted is {tensor.dtype} {tuple(tensor.shape)}"
            )
