"""Targets and losses, checkpoints, configs, ranks, training and evaluating."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lzero.checkpoint import (
    CheckpointError,
    CheckpointManager,
    config_sha256,
    list_checkpoints,
    load_optimizer_state_,
    load_state,
    load_tensors,
    optimizer_state_to_tensors,
    read_manifest,
    rng_state,
    set_rng_state,
    train_iter_of,
)
from lzero.config import EncoderConfig, ExperimentConfig, ModelConfig
from lzero.config_sections import nearest_divisor
from lzero.device import resolve_device, resolve_precision
from lzero.distributed import Distributed, LaunchError, init_distributed, split_evenly
from lzero.entry import Callback, Stop, train_unizero_multitask_segment_ddp
from lzero.entry.analyse_experts import analyse_experts
from lzero.entry.checkpointing import RunError
from lzero.entry.cli import parse, with_overrides
from lzero.entry.eval_unizero_multitask import (
    eval_unizero_multitask,
    find_checkpoint,
    load_policy,
)
from lzero.entry.evaluation import VideoFile
from lzero.entry.replay_files import open_replay
from lzero.entry.shards import assign_tasks
from lzero.envs.domain import with_domain_settings
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.policy import UniZeroMTPolicy
from lzero.policy.targets import value_targets
from lzero.replay.rings import saved_layout
from tests.bad_calls.bad import Bad
from zoo.catch.config.presets import presets

NAN = float("nan")
B, K = 2, 6


def targets(
    reward: Any = None, acting: Any = None, discount: Any = 0.9, td_steps: Any = 2, steps: Any = 3
) -> torch.Tensor:
    return value_targets(
        torch.zeros(B, K) if reward is None else reward,
        torch.ones(B, K, dtype=torch.bool) if acting is None else acting,
        torch.zeros(B, K, dtype=torch.int64),
        torch.zeros(B, K),
        discount=discount,
        td_steps=td_steps,
        num_steps=steps,
    )


def tiny(**changes: Any) -> ExperimentConfig:
    data = presets(moe=True)["both"][1].model_dump()
    return with_domain_settings(data | changes)


def policy(shape: Any = (2, 8, 5), legal: Any = None, model: Any = None) -> UniZeroMTPolicy:
    legal = np.ones((2, 3), bool) if legal is None else legal
    return UniZeroMTPolicy(tiny(), shape, legal, model=model)


def policy_of_another_model() -> UniZeroMTPolicy:
    other = tiny().model.model_copy(update={"share_head": True})
    return policy(model=UniZeroMTModel(other, (2, 8, 5), 3, 2))


def written(folder: Path, iteration: Any = 1, state: Any = None, **more: Any) -> Path:
    manager = CheckpointManager(folder)
    tensors = {"model": {"w": torch.ones(2)}}
    return manager.save(iteration, tensors, {"config": {}} if state is None else state, **more)


def behind(folder: Path) -> None:
    written(folder, 2)
    written(folder, 1)


LINEAR = nn.Linear(2, 2)


def load_optimizer(tensors: Any) -> None:
    optimizer = torch.optim.AdamW(LINEAR.parameters())
    load_optimizer_state_(optimizer, LINEAR.named_parameters(), tensors)


def experiment(**changes: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(changes)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def launched(**variables: str) -> None:
    known = {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with environment(**known | {"WORLD_SIZE": "2", "MASTER_PORT": "29999"} | variables):
        init_distributed("cpu").shutdown()


def train(folder: Path, resume: Any = "auto", **settings: Any) -> None:
    config = tiny(output_dir=folder)
    train_unizero_multitask_segment_ddp(config, resume=resume, **settings)


def video(folder: Path, frames_per_second: Any) -> None:
    with VideoFile(folder / "v.mp4", frames_per_second) as film:
        film.write(np.zeros((8, 8, 3), np.uint8))


MANY = 10**15

CASES = {
    "returns from short windows": Bad(lambda: targets(steps=9), "num_steps 9"),
    "returns of no reward": Bad(lambda: targets(td_steps=0), "td_steps=0"),
    "no returns": Bad(lambda: targets(steps=0), "num_steps=0"),
    "returns discounted by no number": Bad(lambda: targets(discount=NAN), "discount=nan"),
    "returns that grow": Bad(lambda: targets(discount=1.5), "discount=1.5"),
    "returns of one axis": Bad(lambda: targets(reward=torch.zeros(K)), r"reward.*\(6,\)"),
    "returns of other rows": Bad(
        lambda: targets(acting=torch.ones(B, K - 1, dtype=torch.bool)), r"acting.*\(2, 5\)"
    ),
    "returns of numbers as flags": Bad(
        lambda: targets(acting=torch.ones(B, K)), "acting.*float32", TypeError
    ),
    "policy of other tasks": Bad(
        lambda: policy(legal=np.ones((3, 3), bool)), r"legal_actions.*\(3, 3\)"
    ),
    "policy without a legal action": Bad(
        lambda: policy(legal=np.zeros((2, 3), bool)), "legal_actions.*task 0"
    ),
    "policy of numbers as legal": Bad(
        lambda: policy(legal=np.ones((2, 3))), "legal_actions.*float64", TypeError
    ),
    "policy with another module": Bad(
        lambda: policy(model=LINEAR), "model=Linear.*a UniZeroMTModel", TypeError
    ),
    "policy with a model of another config": Bad(
        policy_of_another_model, "model was made of another"
    ),
    "policy of no observation": Bad(lambda: policy(shape=()), r"observation_shape=\(\)"),
    "keep no checkpoint": Bad(lambda folder: CheckpointManager(folder, keep=0), "keep=0"),
    "keep half a checkpoint": Bad(
        lambda folder: CheckpointManager(folder, keep=1.5), "keep=1.5", TypeError
    ),
    "keep for no number of hours": Bad(
        lambda folder: CheckpointManager(folder, keep_every_hours=NAN), "keep_every_hours=nan"
    ),
    "checkpoint before the start": Bad(lambda folder: written(folder, -1), "train_iter=-1"),
    "checkpoint of half an update": Bad(
        lambda folder: written(folder, 1.5), "train_iter=1.5", TypeError
    ),
    "checkpoint behind another": Bad(behind, "train_iter=1.*step_000002", CheckpointError),
    "checkpoint of what is no JSON": Bad(
        lambda folder: written(folder, state={"x": object()}), r"state.*object", TypeError
    ),
    "checkpoint of a score that is none": Bad(
        lambda folder: written(folder, score=NAN), "score=nan"
    ),
    "tensors of no checkpoint": Bad(
        lambda folder: load_tensors(folder / "none", "model"), "none: no such", CheckpointError
    ),
    "tensors of no group": Bad(
        lambda folder: load_tensors(written(folder), "target"), "target.*missing", CheckpointError
    ),
    "state of no rank": Bad(
        lambda folder: load_state(written(folder), rank=3), "rank_3.*missing", CheckpointError
    ),
    "state of None": Bad(lambda: load_state(None), "path=None", TypeError),
    "manifest of an empty folder": Bad(read_manifest, "manifest.json is missing", CheckpointError),
    "updates of another name": Bad(lambda: train_iter_of(Path("best")), "best"),
    "updates of a text": Bad(lambda: train_iter_of("step_1"), "path='step_1'", TypeError),
    "checkpoints of a number": Bad(lambda: list_checkpoints(3), "directory=3", TypeError),
    "hash of what is no JSON": Bad(lambda: config_sha256({"x": object()}), "config", TypeError),
    "optimizer state of strangers": Bad(
        lambda: optimizer_state_to_tensors(torch.optim.AdamW(LINEAR.parameters()), []),
        "named_parameters",
    ),
    "optimizer state for nobody": Bad(
        lambda: load_optimizer({"exp_avg/other": torch.ones(2)}), "exp_avg/other", CheckpointError
    ),
    "optimizer state of another shape": Bad(
        lambda: load_optimizer({"exp_avg/bias": torch.ones(3)}), r"exp_avg/bias", CheckpointError
    ),
    "optimizer state in a list": Bad(
        lambda: load_optimizer({"exp_avg/bias": [1.0, 2.0]}), "exp_avg/bias", TypeError
    ),
    "random state of seeds": Bad(
        lambda: rng_state({"act": 3}), r"generators\['act'\]=3", TypeError
    ),
    "random state of other names": Bad(
        lambda: set_rng_state(rng_state({}), {"act": np.random.default_rng(0)}),
        "act",
        CheckpointError,
    ),
    "random state of nothing": Bad(
        lambda: set_rng_state({}, {}), "state.*numpy", (CheckpointError, ValueError)
    ),
    "config: unknown key": Bad(lambda: experiment(modell={}), "modell.*did you mean 'model'"),
    "config: no games": Bad(lambda: experiment(env={"games": ()}), "env.games is empty"),
    "config: a game twice": Bad(lambda: experiment(env={"games": ("Pong", "Pong")}), "Pong more"),
    "config: exception of another game": Bad(
        lambda: experiment(env={"overrides": {"Pongg": {}}}), "env.overrides: 'Pongg'"
    ),
    "config: odd width": Bad(lambda: experiment(model={"embed_dim": 33}), "model.embed_dim=33"),
    "config: heads that do not divide": Bad(
        lambda: experiment(model={"num_heads": 7}), "model.num_heads=7"
    ),
    "config: rate is no number": Bad(
        lambda: experiment(policy={"optimiser": {"learning_rate": NAN}}), "learning_rate"
    ),
    "config: name of a place": Bad(lambda: experiment(exp_name="a/b"), "exp_name='a/b'"),
    "config: replay below a window": Bad(
        lambda: experiment(policy={"replay": {"capacity": 10}}), "policy.replay.capacity=10"
    ),
    "config: a width beyond all memory": Bad(
        lambda: ModelConfig(embed_dim=MANY, num_heads=7), "model.num_heads=7"
    ),
    "config: an encoder beyond all memory": Bad(
        lambda: EncoderConfig(vit_width=MANY, vit_heads=7), "encoder.vit_heads=7"
    ),
    "config: unknown game": Bad(
        lambda: with_domain_settings({"env": {"games": ("Pongg",)}}), "env.games: unknown.*'Pongg'"
    ),
    "config: unknown domain": Bad(
        lambda: with_domain_settings({"env": {"domain": "nowhere:X"}}), "env.domain='nowhere:X'"
    ),
    "config: a number": Bad(
        lambda: with_domain_settings(3), "ExperimentConfig", (TypeError, ValueError)
    ),
    "divisor of nothing": Bad(lambda: nearest_divisor(0, 3), "whole=0"),
    "share out no tasks": Bad(lambda: assign_tasks(0, [], [], 1), "num_tasks=0"),
    "share out to nobody": Bad(lambda: assign_tasks(2, [1, 1], [1, 1], 0), "world_size=0"),
    "share out half a task": Bad(
        lambda: assign_tasks(1.5, [1], [1], 1), "num_tasks=1.5", TypeError
    ),
    "share out half an environment": Bad(
        lambda: assign_tasks(2, [1.5, 2], [1, 1], 1), r"num_envs.*1.5", TypeError
    ),
    "share out no environments": Bad(
        lambda: assign_tasks(2, None, [1, 1], 1), "num_envs.*None", TypeError
    ),
    "share out too few numbers": Bad(lambda: assign_tasks(2, [1], [1, 1], 1), "num_envs has 1"),
    "share out to too many": Bad(
        lambda: assign_tasks(1, [2], [8], 4), "num_envs=2 of task 0", LaunchError
    ),
    "split into nothing": Bad(lambda: split_evenly(5, 0), "parts=0"),
    "split into less": Bad(lambda: split_evenly(5, -2), "parts=-2"),
    "split a debt": Bad(lambda: split_evenly(-5, 2), "total=-5"),
    "split halves": Bad(lambda: split_evenly(2.5, 2), "total=2.5", TypeError),
    "start on an unknown device": Bad(lambda: init_distributed("tpux"), "device='tpux'"),
    "start of a word": Bad(lambda: launched(WORLD_SIZE="two"), "WORLD_SIZE=two", LaunchError),
    "start of a rank beyond the last": Bad(lambda: launched(RANK="5"), "RANK=5", LaunchError),
    "start of a port that is none": Bad(
        lambda: launched(MASTER_PORT="here"), "MASTER_PORT=here", LaunchError
    ),
    "gather a list": Bad(lambda: Distributed().all_gather_array([1]), r"array=\[1\]", TypeError),
    "a place beyond the last": Bad(lambda: Distributed(rank=3, world_size=2), "rank=3"),
    "unknown device": Bad(lambda: resolve_device("tpu"), "device='tpu'"),
    "unknown precision": Bad(
        lambda: resolve_precision("fp16", torch.device("cpu")), "precision='fp16'"
    ),
    "train with a negative seed": Bad(lambda folder: train(folder, seed=-1), "seed=-1"),
    "train with half a seed": Bad(lambda folder: train(folder, seed=0.5), "seed=0.5", TypeError),
    "train with a word": Bad(lambda folder: train(folder, seed="a"), "seed='a'", TypeError),
    "train no step": Bad(lambda folder: train(folder, max_env_step=0), "max_env_step=0"),
    "train no number of steps": Bad(
        lambda folder: train(folder, max_env_step=NAN), "max_env_step=nan", TypeError
    ),
    "train for ever": Bad(
        lambda folder: train(folder, max_env_step=float("inf")), "max_env_step=inf", TypeError
    ),
    "train from a place that is not there": Bad(
        lambda folder: train(folder, resume=str(folder / "step_000009")),
        "step_000009",
        (CheckpointError, RunError),
    ),
    "train from a number": Bad(lambda folder: train(folder, resume=9), "resume=9", TypeError),
    "train from None": Bad(lambda folder: train(folder, resume=None), "resume=None", TypeError),
    "train nothing": Bad(lambda: train_unizero_multitask_segment_ddp(None), "ExperimentConfig"),
    "evaluate nothing": Bad(
        lambda folder: eval_unizero_multitask(folder / "none"), "none does not", CheckpointError
    ),
    "evaluate no episode": Bad(
        lambda folder: eval_unizero_multitask(folder, episodes=0), "episodes=0"
    ),
    "evaluate half an episode": Bad(
        lambda folder: eval_unizero_multitask(folder, episodes=2.5), "episodes=2.5", TypeError
    ),
    "evaluate without simulations": Bad(
        lambda folder: eval_unizero_multitask(folder, simulations=0), "simulations=0"
    ),
    "evaluate with a negative seed": Bad(
        lambda folder: eval_unizero_multitask(folder, seed=-1), "seed=-1"
    ),
    "evaluate on an unknown device": Bad(
        lambda folder: eval_unizero_multitask(folder, device="tpu"), "device='tpu'"
    ),
    "evaluate a number": Bad(lambda: eval_unizero_multitask(3), "path=3", TypeError),
    "analyse nothing": Bad(
        lambda folder: analyse_experts(folder / "none"), "none does not", CheckpointError
    ),
    "analyse a number": Bad(lambda: analyse_experts(3), "path=3", TypeError),
    "analyse one window": Bad(lambda folder: analyse_experts(folder, windows=1), "windows=1"),
    "analyse half a window": Bad(
        lambda folder: analyse_experts(folder, windows=2.5), "windows=2.5", TypeError
    ),
    "analyse fewer than no episodes": Bad(
        lambda folder: analyse_experts(folder, episodes=-1), "episodes=-1"
    ),
    "analyse without permutations": Bad(
        lambda folder: analyse_experts(folder, permutations=0), "permutations=0"
    ),
    "analyse with a negative seed": Bad(lambda folder: analyse_experts(folder, seed=-1), "seed=-1"),
    "analyse on an unknown device": Bad(
        lambda folder: analyse_experts(folder, device="tpu"), "device='tpu'"
    ),
    "layout of no replay": Bad(
        lambda folder: saved_layout(folder, suffix="rank"), "replay-rank", FileNotFoundError
    ),
    "replay of no checkpoint": Bad(
        lambda folder: open_replay(folder, tiny()), "manifest.json is missing", CheckpointError
    ),
    "find no checkpoint": Bad(find_checkpoint, "holds no checkpoint", CheckpointError),
    "load no checkpoint": Bad(
        lambda folder: load_policy(folder / "none"), "none: no such", CheckpointError
    ),
    "load with no simulations": Bad(
        lambda folder: load_policy(folder, simulations=0), "simulations=0"
    ),
    "command line: unknown preset": Bad(
        lambda: parse(presets(moe=True), "both", ["bothh"]), "'bothh'", SystemExit
    ),
    "command line: negative seed": Bad(
        lambda: parse(presets(moe=True), "both", ["both", "--seed", "-1"]), "--seed -1", SystemExit
    ),
    "command line: no default": Bad(lambda: parse(presets(moe=True), "none", []), "default='none'"),
    "exception of no form": Bad(lambda: with_overrides(tiny(), ["Catch"]), "'Catch'"),
    "exceptions in one text": Bad(
        lambda: with_overrides(tiny(), "Catch.batch_size=4"), "overrides='Catch.b", TypeError
    ),
    "a callback that is none": Bad(
        lambda folder: train(folder, callbacks=[print]), r"callbacks\[0\]=", TypeError
    ),
    "one callback alone": Bad(
        lambda folder: train(folder, callbacks=Callback()), "callbacks=", TypeError
    ),
    "stop for no reason": Bad(lambda: Stop(5), "reason=5", TypeError),
    "a logger twice": Bad(lambda: tiny(train={"loggers": ["csv", "csv"]}), "names csv more than"),
    "film of no pictures a second": Bad(lambda folder: video(folder, 0), "frames_per_second=0"),
}
