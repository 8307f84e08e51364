"""Training for real: in this process on CartPole, and the Atari command as a user types it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from easydict import EasyDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lzero
from lzero.checkpoint import list_checkpoints, load_state
from lzero.config import ExperimentConfig
from lzero.distributed import Distributed
from lzero.entry import TrainResult, train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError, load_policy_state
from lzero.entry.run import Run
from lzero.logging import read_metrics
from lzero.policy import UniZeroMTPolicy
from lzero.report.study import build_study

ROOT = Path(lzero.__file__).parents[1]
SCRIPT = "zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py"
STEPS, RATIO = 120, 0.27
RUN_TIMEOUT_SECONDS = 120


def settings(output_dir: Path, changes: Mapping[str, Any] | None = None) -> EasyDict:
    """A run of seconds; ``changes`` go by dotted path."""
    config = EasyDict(
        {
            "exp_name": "tiny",
            "output_dir": str(output_dir),
            "env": {
                "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
                "games": ["CartPole-v1"],
                "num_envs": 2,
                "num_eval_envs": 2,
                "max_episode_steps": 15,
            },
            "model": {
                "embed_dim": 16,
                "num_heads": 2,
                "num_layers": 1,
                "context_steps": 2,
                "support_bins": 11,
                "support_limit": 5.0,
                "encoder": {"kind": "mlp", "hidden": [16]},
                "moe": {"num_experts": 2},
            },
            "policy": {
                "batch_size": 4,
                "unroll_steps": 3,
                "td_steps": 2,
                "replay_ratio": RATIO,
                "replay": {"capacity": 80},  # the rings overflow
                "search": {"num_simulations": 3, "num_eval_simulations": 3},
            },
            "train": {
                "max_env_steps": STEPS,
                "collect_steps": 10,
                "eval_interval": 60,
                "eval_episodes": 3,
                "checkpoint_interval": 40,
                "log_interval": 1,
            },
            "device": "cpu",
            "precision": "fp32",
        }
    )
    for path, value in (changes or {}).items():
        section, _, field = path.rpartition(".")
        node = config
        for name in filter(None, section.split(".")):
            node = node[name]
        node[field] = value
    return config


def curves(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl`` without what the clock says."""
    rows = []
    for line in read_metrics(run_dir / "metrics.jsonl"):
        metrics = {
            name: value
            for name, value in line["metrics"].items()
            if not name.startswith(("time/", "rate/"))
        }
        rows.append(
            {"env_step": line["env_step"], "train_iter": line["train_iter"], "metrics": metrics}
        )
    return rows


def updates_by_step(run_dir: Path) -> dict[int, int]:
    """Updates done when the env steps moved on, by env steps."""
    return {row["env_step"]: row["train_iter"] for row in curves(run_dir)}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Runs in this process take one core: spinning threads on a busy machine would make seconds minutes."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distributed, "threads", 1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, TrainResult]:
    """Folder of all runs with one finished run in it, never to be written to, and what it returned."""
    output_dir = tmp_path_factory.mktemp("runs")
    return output_dir, train_unizero_multitask_segment_ddp(settings(output_dir), seed=3)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run to go on with."""
    shutil.copytree(finished[0], tmp_path / "runs")
    return tmp_path / "runs"


def test_a_run_leaves_its_files_and_returns_its_result(finished):
    output_dir, result = finished
    run_dir = output_dir / "tiny"
    config = ExperimentConfig.model_validate(settings(output_dir))
    assert ExperimentConfig.model_validate_json((run_dir / "config.json").read_text()) == config
    assert result.run_dir == run_dir == config.run_dir
    assert result.env_steps == STEPS and result.train_iter == int(RATIO * STEPS)
    assert list(result.scores) == ["CartPole-v1"] and 1 <= result.scores["CartPole-v1"] <= 15
    normalised = (result.scores["CartPole-v1"] - 22) / (475 - 22)
    assert result.aggregates == pytest.approx(
        {"mean": normalised, "median": normalised, "iqm": normalised}
    )

    checkpoints = list_checkpoints(run_dir / "checkpoints")
    assert [path.name for path in checkpoints] == [
        f"step_{int(RATIO * steps):06d}" for steps in (80, 120)
    ]
    state = load_state(checkpoints[-1])
    assert (state["env_steps"], state["train_iter"], state["seed"]) == (STEPS, result.train_iter, 3)
    assert ExperimentConfig.model_validate(state["config"]) == config
    assert not list((run_dir / "checkpoints").glob(".*"))

    events = EventAccumulator(str(run_dir / "tb")).Reload()
    tags = set(events.Tags()["scalars"])
    rows = curves(run_dir)
    logged = {name for row in read_metrics(run_dir / "metrics.jsonl") for name in row["metrics"]}
    assert tags == logged
    for name in (
        "learn/loss",
        "learn_policy/CartPole-v1",
        "collect_return/CartPole-v1",
        "eval_return/CartPole-v1",
    ):
        assert name in tags
    assert {"time/collect", "time/search", "time/env", "time/sample", "time/learn"} <= tags
    assert {
        "rate/env_steps_per_second",
        "rate/updates_per_second",
        "learn/grad_norm_clipped",
        "replay/age",
    } <= tags
    per_game = (
        "value_predicted",
        "value_realised",
        "reward_predicted",
        "reward_realised",
        "reward_error",
        "search_kl",
    )
    per_game += ("search_entropy", "prior_entropy", "latent_norm", "effective_rank")
    assert {"health/target_lag", *(f"health/{name}/CartPole-v1" for name in per_game)} <= tags
    losses = [row["metrics"]["learn/loss"] for row in rows if "learn/loss" in row["metrics"]]
    assert [event.value for event in events.Scalars("learn/loss")] == pytest.approx(losses)
    assert len(losses) == result.train_iter
    evaluated = [row for row in rows if "eval_return/CartPole-v1" in row["metrics"]]
    assert [row["env_step"] for row in evaluated] == [60, 120]
    assert evaluated[-1]["metrics"]["eval_return/CartPole-v1"] == result.scores["CartPole-v1"]
    scores = [
        row["arrays"]["eval_scores/CartPole-v1"]
        for row in read_metrics(run_dir / "metrics.jsonl")
        if "arrays" in row
    ]
    assert len(scores) == 2 and np.mean(scores[-1]) == pytest.approx(result.scores["CartPole-v1"])


def test_the_ratio_of_learning_to_acting_is_exact_at_every_step(finished):
    by_step = updates_by_step(finished[0] / "tiny")
    assert by_step == {steps: int(RATIO * steps) for steps in range(20, STEPS + 1, 20)}


@pytest.mark.parametrize("ratio", [0.1, 1.3])
def test_learning_starts_after_the_random_steps_and_keeps_the_ratio(tmp_path, ratio):
    """The random steps are not caught up on: the ratio counts from the round in which learning begins."""
    changes = {"train.random_steps": 50, "policy.replay_ratio": ratio, "train.eval_interval": 1000}
    result = train_unizero_multitask_segment_ddp(settings(tmp_path, changes))
    by_step = updates_by_step(tmp_path / "tiny")
    assert by_step == {
        steps: max(0, int(ratio * (steps - 40))) for steps in range(20, STEPS + 1, 20)
    }
    assert result.train_iter == int(ratio * (STEPS - 40))


def test_the_same_seed_repeats_the_run(finished, tmp_path):
    again = train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3)
    other = train_unizero_multitask_segment_ddp(settings(tmp_path, {"exp_name": "other"}), seed=4)
    assert curves(tmp_path / "tiny") == curves(finished[0] / "tiny")
    assert curves(tmp_path / "other") != curves(finished[0] / "tiny")
    assert again.scores == finished[1].scores
    assert other.env_steps == again.env_steps and other.train_iter == again.train_iter


OPTIONS = {
    "several games": {
        "env.games": ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"],
        "env.overrides": {"Acrobot-v1": {"num_envs": 1, "batch_size": 2, "max_episode_steps": 9}},
    },
    "prioritised": {"policy.replay": {"capacity": 80, "prioritised": True}},
    "balanced": {
        "model.moe": {"num_experts": 4, "top_k": 2, "renormalise": True, "balance": "bias"},
        "policy.loss": {"adaptive_entropy": True},
        "model.dropout": 0.1,
    },
    "bf16": {"precision": "bf16", "model.moe": {"enabled": False}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_train_too(tmp_path, name):
    config = settings(tmp_path, OPTIONS[name] | {"train.max_env_steps": 60})
    result = train_unizero_multitask_segment_ddp(config)
    assert result.train_iter == int(RATIO * 60)
    assert set(result.scores) == set(config.env.games)
    losses = [
        row["metrics"]["learn/loss"]
        for row in curves(tmp_path / "tiny")
        if "learn/loss" in row["metrics"]
    ]
    assert len(losses) == result.train_iter and all(np.isfinite(losses))


def test_stopping_and_continuing_keeps_the_counters_and_the_curves(copied, finished):
    before = curves(copied / "tiny")
    result = train_unizero_multitask_segment_ddp(settings(copied), seed=3, max_env_step=STEPS + 80)
    assert result.env_steps == STEPS + 80 and result.train_iter == int(RATIO * (STEPS + 80))
    rows = curves(copied / "tiny")
    assert rows[: len(before)] == before
    steps = [row["env_step"] for row in rows]
    assert steps == sorted(steps) and steps[len(before)] == STEPS + 20
    assert updates_by_step(copied / "tiny") == {
        s: int(RATIO * s) for s in range(20, STEPS + 81, 20)
    }
    assert result.run_dir.parent == copied and finished[0] != copied


def test_continuing_is_repeatable(copied, tmp_path):
    shutil.copytree(copied, tmp_path / "twin")
    for place in (copied, tmp_path / "twin"):
        train_unizero_multitask_segment_ddp(settings(place), seed=3, max_env_step=STEPS + 40)
    assert curves(copied / "tiny") == curves(tmp_path / "twin" / "tiny")


def test_everything_is_restored_as_it_was_saved(tmp_path, monkeypatch):
    """Parameters, target, optimiser, entropy weights, generators, counters and replay."""
    saved: list[Run] = []
    save = Run.save

    def remembering_save(run: Run) -> Path:
        path = save(run)
        run.kept = {
            "state": copy.deepcopy(run.policy.state_dict()),
            "replay": copy.deepcopy(run.replay),
            "rngs": {
                name: copy.deepcopy(rng.bit_generator.state) for name, rng in run.rngs.items()
            },
            "torch": torch.get_rng_state(),
            "entropy": run.policy.entropy_weight.weight(),
            "path": path,
        }
        saved.append(run)
        return path

    monkeypatch.setattr(Run, "save", remembering_save)
    config = ExperimentConfig.model_validate(
        settings(
            tmp_path, {"policy.loss": {"adaptive_entropy": True}, "model.moe": {"balance": "bias"}}
        )
    )
    train_unizero_multitask_segment_ddp(config, seed=3)
    old, kept = saved[-1], saved[-1].kept
    torch.manual_seed(99)
    with Run(config, seed=3, max_env_steps=2 * STEPS, resume=True) as run:
        assert (run.env_steps, run.policy.train_iter) == (old.env_steps, old.policy.train_iter)
        assert (run.learning_since, run.last_returns) == (old.learning_since, old.last_returns)
        assert run.reward_rate.state() == old.reward_rate.state() and run.reward_rate.by_game()
        assert kept["state"]["optimizer"] and kept["state"]["expert_selection"]
        on_file = load_policy_state(kept["path"], run.policy.device)
        for group, tensors in kept["state"].items():
            restored, on_disk = run.policy.state_dict()[group], on_file[group]
            assert restored.keys() == tensors.keys() == on_disk.keys()
            for name, tensor in tensors.items():
                assert torch.equal(restored[name], tensor) and torch.equal(on_disk[name], tensor), (
                    group,
                    name,
                )
        assert {name: rng.bit_generator.state for name, rng in run.rngs.items()} == kept["rngs"]
        assert torch.equal(torch.get_rng_state(), kept["torch"])
        assert torch.equal(run.policy.entropy_weight.weight(), kept["entropy"])

        kept["replay"].cut()  # environments start anew, so no episode runs across the seam
        assert run.replay.head == kept["replay"].head > run.replay.ring_length
        windows = [
            replay.sample({0: 300}, np.random.default_rng(0))
            for replay in (run.replay, kept["replay"])
        ]
        for name, values in vars(windows[0]).items():
            assert torch.equal(values, getattr(windows[1], name)), name


def test_a_continued_run_plays_other_episodes(copied):
    """Its environments are seeded by how far it has come, so the first episodes are not lived through twice."""
    first = []
    for place, resume in ((copied, True), (copied.parent / "fresh", True)):
        with Run(
            ExperimentConfig.model_validate(settings(place)),
            seed=3,
            max_env_steps=200,
            resume=resume,
        ) as run:
            first.append(run.collector.observation)
    assert not np.isclose(*first).any()


def test_a_finished_run_is_not_trained_further(copied, finished):
    newest = list_checkpoints(copied / "tiny" / "checkpoints")[-1]
    files = {path: path.read_bytes() for path in newest.rglob("*") if path.is_file()}
    again = train_unizero_multitask_segment_ddp(settings(copied), seed=3)
    assert (again.env_steps, again.train_iter) == (STEPS, finished[1].train_iter)
    assert again.scores == finished[1].scores
    new_rows = curves(copied / "tiny")[len(curves(finished[0] / "tiny")) :]
    assert not any(
        name.startswith(("learn", "collect")) for row in new_rows for name in row["metrics"]
    )
    assert list_checkpoints(copied / "tiny" / "checkpoints")[-1] == newest
    assert {path: path.read_bytes() for path in newest.rglob("*") if path.is_file()} == files


def contents(run_dir: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and path.parent.name != "tb"
    }


REFUSED = {
    "model": {"model.embed_dim": 32},
    "env.games": {"env.games": ["MountainCar-v0"]},
    "env.num_envs": {"env.num_envs": 3},
    "env.overrides": {"env.overrides": {"CartPole-v1": {"batch_size": 5}}},
    "policy.unroll_steps": {"policy.unroll_steps": 4},
    "policy.td_steps": {"policy.td_steps": 1},
    "policy.replay": {"policy.replay.capacity": 100},
}


CHANGED = {"policy.batch_size": 5, "policy.optimiser": {"learning_rate": 0.5}}


@pytest.mark.parametrize("field", CHANGED)
def test_a_finished_run_is_not_relabelled(copied, field):
    before = contents(copied / "tiny")
    with pytest.raises(
        RunError, match=f"another {field}.*was .*, is .*nothing is left to learn.*exp_name"
    ):
        train_unizero_multitask_segment_ddp(settings(copied, {field: CHANGED[field]}), seed=3)
    assert contents(copied / "tiny") == before


def test_other_settings_on_the_way_are_said_and_kept_on_record(copied, caplog):
    changes = {"policy.batch_size": 5, "train.eval_episodes": 1}
    train_unizero_multitask_segment_ddp(settings(copied, changes), seed=3, max_env_step=STEPS + 20)
    run_dir = copied / "tiny"
    assert (
        "with other settings: policy.batch_size was 4, is 5; the earlier ones are in" in caplog.text
    )
    earlier, later = (
        ExperimentConfig.model_validate_json((run_dir / name).read_text())
        for name in (f"config_until_env_step_{STEPS}.json", "config.json")
    )
    assert (earlier.policy.batch_size, later.policy.batch_size, later.train.eval_episodes) == (
        4,
        5,
        1,
    )
    assert any("settings were changed on the way" in note for note in build_study([run_dir]).notes)


def test_settings_that_never_reached_a_checkpoint_leave_no_record(copied):
    record = copied / "tiny" / f"config_until_env_step_{STEPS}.json"
    record.touch()  # by a run that was killed at once
    train_unizero_multitask_segment_ddp(settings(copied), seed=3, max_env_step=STEPS + 20)
    assert not record.exists()


@pytest.mark.parametrize("field", REFUSED)
def test_another_experiment_is_not_continued(copied, field):
    """The error names the field, and the run stays as it was."""
    before = contents(copied / "tiny")
    with pytest.raises(RunError, match=f"another {field}.*was .*, is .*another exp_name"):
        train_unizero_multitask_segment_ddp(
            settings(copied, REFUSED[field]), seed=3, max_env_step=STEPS + 20
        )
    assert contents(copied / "tiny") == before


def test_another_seed_is_another_run(copied):
    """Otherwise a finished run would be taken for one with the new seed."""
    before = contents(copied / "tiny")
    with pytest.raises(
        RunError,
        match="another seed: seed was 3, is 4; restore these values or choose another exp_name",
    ):
        train_unizero_multitask_segment_ddp(settings(copied), seed=4)
    assert contents(copied / "tiny") == before


def test_a_run_of_another_number_of_processes_is_not_continued(copied):
    file = list_checkpoints(copied / "tiny" / "checkpoints")[-1] / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"world_size": 2}))
    before = contents(copied / "tiny")
    with pytest.raises(RunError, match=r"2 process.*this run has 1.*--nproc_per_node=2"):
        train_unizero_multitask_segment_ddp(settings(copied), max_env_step=STEPS + 20)
    assert contents(copied / "tiny") == before


def test_an_existing_run_is_not_overwritten(copied):
    before = contents(copied / "tiny")
    with pytest.raises(RunError, match="resume=False.*exp_name"):
        train_unizero_multitask_segment_ddp(settings(copied), resume=False)
    assert contents(copied / "tiny") == before


def die_at_update(train_iter: int, output_dir: Path) -> None:
    """Start a run that is interrupted while it learns."""
    learn: Callable = UniZeroMTPolicy.learn

    def failing_learn(policy, windows):
        if policy.train_iter == train_iter:
            raise KeyboardInterrupt
        return learn(policy, windows)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UniZeroMTPolicy, "learn", failing_learn)
        train_unizero_multitask_segment_ddp(settings(output_dir), seed=3)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_died_before_its_first_checkpoint_starts_over(tmp_path, finished, resume):
    """Its curves show one run, not the dead one's beginning twice."""
    die_at_update(7, tmp_path)
    assert len(curves(tmp_path / "tiny")) > 7 and not list_checkpoints(
        tmp_path / "tiny" / "checkpoints"
    )
    train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3, resume=resume)
    assert curves(tmp_path / "tiny") == curves(finished[0] / "tiny")


def test_a_run_that_died_between_checkpoints_goes_on_from_the_last(tmp_path, finished):
    """What it had logged behind the checkpoint is forgotten, so the curves do not fold back."""
    die_at_update(15, tmp_path)
    [checkpoint] = list_checkpoints(tmp_path / "tiny" / "checkpoints")
    assert (
        load_state(checkpoint)["train_iter"]
        == int(RATIO * 40)
        < curves(tmp_path / "tiny")[-1]["train_iter"]
        == 15
    )
    result = train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3)
    assert (result.env_steps, result.train_iter) == (STEPS, int(RATIO * STEPS))
    rows = curves(tmp_path / "tiny")
    kept = [row for row in curves(finished[0] / "tiny") if row["env_step"] <= 40]
    assert rows[: len(kept)] == kept
    updates = [row["train_iter"] for row in rows if "learn/loss" in row["metrics"]]
    assert updates == list(range(1, result.train_iter + 1))
    assert updates_by_step(tmp_path / "tiny") == updates_by_step(finished[0] / "tiny")


@pytest.mark.parametrize("broken", ["loss", "grad_norm"])
def test_a_run_whose_loss_is_no_number_stops_before_it_saves(tmp_path, monkeypatch, broken):
    """Though nothing is logged meanwhile; the checkpoint of the round before stays the newest."""
    learn: Callable = UniZeroMTPolicy.learn

    def breaking_learn(policy, windows):
        result = learn(policy, windows)
        if policy.train_iter < 12:
            return result
        nothing = {
            "loss": {"task_losses": result.task_losses * torch.nan},
            "grad_norm": {"grad_norm": torch.tensor(torch.inf)},
        }
        return replace(result, **nothing[broken])

    monkeypatch.setattr(UniZeroMTPolicy, "learn", breaking_learn)
    changes = {"train.log_interval": 1000, "train.checkpoint_interval": 20}
    with pytest.raises(
        FloatingPointError, match=r"after 16 updates.*policy\.optimiser\.learning_rate"
    ):
        train_unizero_multitask_segment_ddp(settings(tmp_path, changes))
    newest = list_checkpoints(tmp_path / "tiny" / "checkpoints")[-1]
    assert load_state(newest)["env_steps"] == 40


def test_everything_is_closed_even_if_a_profile_cannot_be_written(tmp_path, monkeypatch):
    config, closed = ExperimentConfig.model_validate(settings(tmp_path)), []
    run = Run(config, seed=0, max_env_steps=STEPS, resume=True)
    with pytest.raises(OSError, match="disk full"), run:
        for part in ("logger", "env", "evaluator"):
            monkeypatch.setattr(getattr(run, part), "close", partial(closed.append, part))
        monkeypatch.setattr(type(run.profilers), "__exit__", Mock(side_effect=OSError("disk full")))
    assert closed == ["logger", "env", "evaluator"]


@pytest.mark.parametrize("log_interval", [1, 1000])
def test_an_exploding_run_says_so(tmp_path, log_interval):
    config = settings(
        tmp_path, {"policy.optimiser": {"learning_rate": 1e20}, "train.log_interval": log_interval}
    )
    with pytest.raises(FloatingPointError, match=r"loss is nan.*policy\.optimiser\.learning_rate"):
        train_unizero_multitask_segment_ddp(config)


SHORT = (
    *("--env.num-envs", "2", "--env.num-eval-envs", "1", "--env.max-episode-steps", "60"),
    *(
        "--policy.search.num-simulations",
        "4",
        "--policy.search.num-eval-simulations",
        "2",
        "--policy.batch-size",
        "4",
    ),
    *(
        "--policy.replay.capacity",
        "400",
        "--train.max-env-steps",
        "80",
        "--train.eval-episodes",
        "1",
    ),
    *("--train.random-steps", "0"),
    *("--train.checkpoint-interval", "40", "--train.log-interval", "1", "--device", "cpu"),
)
COMMANDS = {
    "one process": (1, ("Pong", "Boxing")),
    "tasks split": (2, ("Pong", "Boxing")),
    "one task shared": (2, ("Pong",)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_real_command(tmp_path, name):
    """The preset ``cpu``, shortened: files, curves, checkpoints of every rank, videos; only rank 0 writes and speaks."""
    processes, games = COMMANDS[name]
    launcher = (
        ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
        if processes > 1
        else ()
    )
    command = [sys.executable, *launcher, SCRIPT, "cpu", "--env.games", *games, *SHORT]
    done = subprocess.run(
        [*command, "--exp-name", "short", "--output-dir", str(tmp_path)],
        cwd=ROOT,
        timeout=RUN_TIMEOUT_SECONDS,
        capture_output=True,
        text=True,
        env={
            key: value
            for key, value in os.environ.items()
            if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        },
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("finished: ") == said.count("tensorboard --logdir") == 1
    assert said.count("evaluation at 80 env steps per game") == 1

    run_dir = tmp_path / "short"
    config = ExperimentConfig.model_validate_json((run_dir / "config.json").read_text())
    assert config.env.games == games and config.model.moe.enabled
    assert len(list((run_dir / "tb").iterdir())) == 1, "one process writes"
    rows = read_metrics(run_dir / "metrics.jsonl")
    updates = int(config.policy.replay_ratio * 80)
    losses = [row for row in rows if "learn/loss" in row["metrics"]]
    assert [row["train_iter"] for row in losses] == list(range(1, updates + 1))
    rates = [row for row in rows if f"collect_reward/{games[0]}" in row["metrics"]]
    assert [row["env_step"] for row in rates] == list(range(40, 81, 40)), "from the first round on"
    assert "reward per 1,000 steps: " in said and "human" in said
    for game in games:
        [evaluated] = [row["metrics"] for row in rows if f"eval_return/{game}" in row["metrics"]]
        assert f"eval_normalised/{game}" in evaluated and "eval_aggregate/iqm" in evaluated
        assert all(np.isfinite(row["metrics"][f"learn_loss/{game}"]) for row in losses)
        assert game in said

    checkpoint = list_checkpoints(run_dir / "checkpoints")[-1]
    assert checkpoint.name == f"step_{updates:06d}"
    assert load_state(checkpoint)["world_size"] == processes
    assert sorted(path.name for path in checkpoint.glob("rank_*")) == [
        f"rank_{rank}" for rank in range(processes)
    ]

    assert sorted(path.name for path in (run_dir / "videos").iterdir()) == sorted(
        f"{game}.mp4" for game in games
    )
    for game in games:
        with imageio.get_reader(run_dir / "videos" / f"{game}.mp4") as video:
            frames = [frame for frame in video]
        assert len(frames) == 61 and frames[0].shape == (420, 320, 3)
        assert np.abs(frames[0].astype(int) - frames[-1]).max() > 30, (
            "the film shows a game, not a still"
        )


def test_a_missing_gpu_is_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RunError, match="device=cpu"):
        train_unizero_multitask_segment_ddp(settings(tmp_path) | {"device": "cuda"})
