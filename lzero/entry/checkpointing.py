"""Checkpoints of a run: what they hold, how a run continues from one, and with which other settings it may."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from torch import Tensor

from lzero.checkpoint import (
    DAMAGED,
    LEFT,
    MANIFEST_FILE,
    STATE_FILE,
    CheckpointError,
    Manifest,
    config_sha256,
    damaged_files,
    list_checkpoints,
    load_arrays,
    load_state,
    load_tensors,
    read_manifest,
    rng_state,
    set_rng_state,
    train_iter_of,
)
from lzero.config import Experiment
from lzero.config_fields import (
    EARLIER_CONFIG,
    NOT_LEARNING,
    NOT_THERE,
    differences,
    flatten,
    is_one_of,
)
from lzero.envs.multitask import NotTheSameError
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.replay.frame_chunks import CHUNK_NAME

if TYPE_CHECKING:
    from lzero.entry.life import RunLife

logger = logging.getLogger(__name__)

COUNTERS = ("train_iter", "skipped", "skipped_in_a_row")
PLAYING_FILE = "playing.safetensors"
"""Of a rank: where its environments are, and what is known of their episodes."""
# What files raise that were not damaged but forged: their hashes are right.
READING_ERRORS = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError),
    *(RuntimeError, OSError, MemoryError, SafetensorError),
)

Resume = bool | str | Path

Changes = Mapping[str, tuple[Any, Any]]
"""By field its value in the checkpoint and the one asked for."""


class RunError(RuntimeError):
    """A run's folder does not fit what is asked of it."""


def check_resumable(
    state: Mapping[str, Any],
    config: Experiment,
    *,
    seed: int,
    max_env_steps: int,
    checkpoint: Path,
) -> Changes:
    """Refuse to continue ``checkpoint`` with what cannot fit it, or would only be written down and never be used.

    Returns:
        Other fields that decide what is learned and have changed. One that the checkpoint does not know, because it is
        newer, had its default.

    Raises:
        RunError: naming each field that differs and what to type instead.
    """
    then, now = state["config"], config.model_dump(mode="json")
    defaults = dict(flatten(type(config)(env=type(config.env)()).model_dump(mode="json")))
    found = {}
    for name, (before, after) in differences(
        then | {"seed": state["seed"]}, now | {"seed": seed}
    ).items():
        if before == NOT_THERE:
            before = defaults.get(name, NOT_THERE)
        if before != after:
            found[name] = (before, after)
    shapes = (f"env.{name}" for name in config.env.shapes_observations)
    fixed = (*config.fixed_fields, "seed", *shapes)
    found = {
        name: pair
        for name, pair in found.items()
        if name in fixed or not is_one_of(name, NOT_LEARNING)
    }
    refused = {name: pair for name, pair in found.items() if is_one_of(name, fixed)}
    if refused:
        raise RunError(
            f"{checkpoint} was trained with another {', '.join(refused)}: {described(refused)}; restore these values or "
            "choose another exp_name"
        )
    if found and state["env_steps"] >= max_env_steps:
        raise RunError(
            f"{checkpoint} has its {state['env_steps']:,} env steps per game behind it and was trained with another "
            f"{', '.join(found)}: {described(found)}; nothing is left to learn with them: choose another exp_name, or more "
            "train.max_env_steps"
        )
    return found


def described(changes: Changes) -> str:
    """What was and what is, field by field."""
    return "; ".join(
        f"{name} was {before!r}, is {after!r}" for name, (before, after) in changes.items()
    )


def save(run: "RunLife") -> Path:
    """Write a checkpoint of ``run``: policy, counters, generators, data, and where the environments are; collective."""
    state = run.policy.state_dict()
    counters = state.pop("counters")
    playing = run.playing()

    def write_rank_files(directory: Path, previous: Path | None) -> None:
        run.write_rank_files(directory, previous)
        if playing is not None:
            arrays = {name: np.ascontiguousarray(array) for name, array in playing.items()}
            save_file(arrays, directory / PLAYING_FILE)

    return run.checkpoints.save(
        run.policy.train_iter,
        state,
        {
            **{name: int(counters[name]) for name in COUNTERS},
            **run.counters(),
            "world_size": run.dist.world_size,
            "seed": run.seed,
            "config": run.config.model_dump(mode="json"),
            "observation_shape": run.env.observation_shape,
            "legal_actions": run.legal_actions.tolist(),
        },
        rank_state={"rng": rng_state(run.rngs), **run.rank_state()},
        write_rank_files=write_rank_files,
        exact=not run.dist.any(playing is None),
        score=run.score_at(run.env_steps),
    )


def load_policy_state(
    checkpoint: Path, device: torch.device, groups: Sequence[str] = UniZeroMTPolicy.state_groups
) -> dict[str, Mapping[str, Tensor]]:
    """What ``load_state_dict`` of a policy takes, from the folder of a checkpoint.

    Args:
        checkpoint: the folder.
        device: where tensors go.
        groups: names of the policy's groups of tensors, ``state_groups``.

    Raises:
        CheckpointError: if something is missing or damaged.
    """
    state: dict[str, Mapping[str, Tensor]] = {}
    for name in groups:
        state[name] = load_tensors(checkpoint, name, device)
    counters = load_state(checkpoint)
    state["counters"] = {name: torch.tensor(counters[name]) for name in COUNTERS}
    return state


def restore(run: "RunLife", resume: Resume) -> bool:
    """Continue ``run`` from a checkpoint; whether there is one.

    Args:
        run: which has just been built.
        resume: ``auto`` (or True) goes on from the newest checkpoint that can be read, ``never`` (or False) refuses where there
            is one, and a path names the checkpoint: an earlier one of this run, whose later ones are put aside, or one of
            another folder, from which a new run branches off.

    Raises:
        CheckpointError: if there are some and none can be read, or the named one cannot.
        RunError: if it belongs to another experiment, or ``resume`` forbids to continue.
    """
    own = list_checkpoints(run.checkpoints.directory)
    checkpoints, later = own, []
    if resume in (False, "never"):
        if own:
            raise RunError(
                f"{run.config.run_dir} holds checkpoints of an earlier run and resume is 'never'; choose "
                "another exp_name, delete the folder, or resume"
            )
        return False
    if resume not in (True, "auto"):
        named = Path(str(resume))
        checkpoints = [named]
        if named.parent.resolve() == run.checkpoints.directory.resolve():
            later = [path for path in own if train_iter_of(path) > train_iter_of(named)]
        elif own:
            raise RunError(
                f"{run.config.run_dir} holds checkpoints of its own, so it cannot go on from {named}; choose another exp_name"
            )
    if not checkpoints:
        return False
    passed_over: dict[Path, str] = {}
    for checkpoint in reversed(checkpoints):
        problem, lost = _what_is_damaged(checkpoint, run)
        if not run.dist.any(problem is not None):
            break
        passed_over[checkpoint] = problem or "it is damaged on another rank"
    else:
        problems = "; ".join(f"{path.name}: {problem}" for path, problem in passed_over.items())
        raise CheckpointError(
            f"no checkpoint for {run.config.run_dir} can be read ({problems}); bring one back from a copy, name another, or "
            "choose another exp_name to start anew"
        )
    state = load_state(checkpoint)
    with _on_all_ranks(run, checkpoint):
        changed = check_resumable(
            state,
            run.config,
            seed=run.seed,
            max_env_steps=run.max_env_steps,
            checkpoint=checkpoint,
        )
        _load(run, checkpoint, state, lost)
    for damaged, problem in passed_over.items():
        logger.warning("%s is passed over and renamed: %s", damaged, problem)
        run.checkpoints.put_aside(damaged, DAMAGED)
    for path in later:
        run.checkpoints.put_aside(path, LEFT)
    if run.dist.is_main:
        _say_where(run, checkpoint, state, changed)
    same_ranks = state["world_size"] == run.dist.world_size
    if not (same_ranks and _play_on(run, checkpoint, exact=not lost)):
        run.begin(env_seed(run.seed, run.env_steps))
    return True


def _what_is_damaged(checkpoint: Path, run: "RunLife") -> tuple[str | None, set[str]]:
    """Why ``checkpoint`` cannot be used, if so, and which frame files that this rank needs are lost, with their folders."""
    try:
        manifest = read_manifest(checkpoint)
        ranks = _ranks_to_read(run, manifest)
        damaged = damaged_files(checkpoint, ranks)
        needed = {f"{group}.safetensors" for group in run.policy.state_groups}
        needed.add(STATE_FILE)
        for rank in ranks:
            needed |= {f"rank_{rank}/{name}" for name in (STATE_FILE, *run.rank_files)}
        unnamed = sorted(needed - manifest.files.keys())
        if unnamed:
            return f"{MANIFEST_FILE} does not name {', '.join(unnamed)}", set()
        if STATE_FILE not in damaged:
            state = load_state(checkpoint)
            named = (manifest.train_iter, manifest.world_size, manifest.config_sha256)
            of_config = config_sha256(state.get("config", {}))
            if named != (state.get("train_iter"), state.get("world_size"), of_config):
                return f"{MANIFEST_FILE} and {STATE_FILE} do not belong together", set()
    except CheckpointError as error:
        return str(error), set()
    lost = set()
    for name, problem in damaged.items():
        folder, _, file = name.rpartition("/")
        if folder and CHUNK_NAME.fullmatch(file):
            lost.add(name)
        else:
            return f"{name} {problem}", set()
    for rank in ranks:  # what the manifest does not name is not read
        for path in (checkpoint / f"rank_{rank}").glob("frames-*"):
            name = f"rank_{rank}/{path.name}"
            if name not in manifest.files:
                lost.add(name)
    return None, lost


def _ranks_to_read(run: "RunLife", manifest: Manifest) -> list[int]:
    """Ranks of a checkpoint whose files this one goes on with."""
    if manifest.world_size == run.dist.world_size:
        return [run.dist.rank]
    try:
        return run.ranks_to_read(manifest.world_size)
    except ValueError:  # of other environments: that is refused where settings are compared
        folders = {name.partition("/")[0] for name in manifest.files if "/" in name}
        return sorted(int(folder.removeprefix("rank_")) for folder in folders)


@contextmanager
def _on_all_ranks(run: "RunLife", checkpoint: Path) -> Iterator[None]:
    """Reading of a checkpoint that ends on all ranks if one cannot do it, instead of letting the others wait; collective.

    Raises:
        CheckpointError: on all ranks, if a file is of another program or experiment.
        RunError: on those that found that it belongs to another experiment.
    """
    problem: CheckpointError | RunError | None = None
    try:
        yield
    except (CheckpointError, RunError) as error:
        problem = error
    except READING_ERRORS as error:
        problem = CheckpointError(
            f"checkpoint {checkpoint} was not written by this program, or for another experiment ({error!r})"
        )
        problem.__cause__ = error
    if run.dist.any(problem is not None):
        raise problem or CheckpointError(f"another rank cannot go on from {checkpoint}")


def _load(run: "RunLife", checkpoint: Path, state: Mapping[str, Any], lost: set[str]) -> None:
    """Take over all but the environments."""
    run.load_counters(state)
    groups = run.policy.state_groups
    run.policy.load_state_dict(load_policy_state(checkpoint, run.policy.device, groups))
    own = None
    if state["world_size"] == run.dist.world_size:
        own = load_state(checkpoint, run.dist.rank)
        set_rng_state(own["rng"], run.rngs)
    else:
        _draw_anew(run, checkpoint, state["world_size"])
    run.load_rank(checkpoint, state, own, lost)
    for file in sorted(lost):
        logger.warning(
            "rank %d: frames %s of %s are damaged; windows with them are not learned from, and the run does not go on bit "
            "for bit",
            run.dist.rank,
            file,
            checkpoint,
        )


def _draw_anew(run: "RunLife", checkpoint: Path, world_size: int) -> None:
    """Random numbers that none of another number of processes drew."""
    for stream, (name, generator) in enumerate(run.rngs.items()):
        rank = 0 if name in run.shared_rngs else run.dist.rank
        anew = np.random.default_rng([run.seed, rank, stream, run.env_steps])
        generator.bit_generator.state = anew.bit_generator.state
    torch.manual_seed(env_seed(run.seed, run.env_steps) + run.dist.rank)
    if run.dist.is_main:
        logger.warning(
            "%s was written by %d process(es), this run has %d: %sepisodes begin anew; the run does not go on bit for bit",
            checkpoint,
            world_size,
            run.dist.world_size,
            "the replay is shared out anew and " if run.rank_files else "",
        )


def _play_on(run: "RunLife", checkpoint: Path, *, exact: bool) -> bool:
    """Bring environments, episodes and contexts back to where they were; whether that is possible."""
    name = f"rank_{run.dist.rank}/{PLAYING_FILE}"
    problem = None
    with _on_all_ranks(run, checkpoint):
        if name in read_manifest(checkpoint).files:
            try:
                run.play_on(load_arrays(checkpoint, name))
            except NotTheSameError as error:
                problem = str(error)
        else:
            problem = "the environments cannot say where they were"
    if problem is not None:
        logger.warning("%s: episodes begin anew", problem)
        return False
    if exact and run.dist.is_main:
        logger.info("episodes go on where they were: the run continues bit for bit")
    return True


def env_seed(seed: int, env_steps: int) -> int:
    """Seed of training environments that begin at ``env_steps``; none plays the run's first episodes again."""
    return int(np.random.SeedSequence((seed, env_steps)).generate_state(1)[0])


def _say_where(
    run: "RunLife", checkpoint: Path, state: Mapping[str, Any], changed: Changes
) -> None:
    """Tell the user what is continued, and keep settings on record that are changed from here on."""
    logger.info("resuming from %s at %s env steps per game", checkpoint, f"{run.env_steps:,}")
    if run.env_steps >= run.max_env_steps:
        logger.info("nothing is left to train; more train.max_env_steps continue the run")
    record = run.config.run_dir / f"{EARLIER_CONFIG}{run.env_steps}.json"
    record.unlink(missing_ok=True)  # of an attempt that died before its first checkpoint
    if changed:
        record.write_text(json.dumps(state["config"], indent=2) + "\n", encoding="utf-8")
        text = "from here on with other settings: %s; the earlier ones are in %s"
        logger.warning(text, described(changed), record)
