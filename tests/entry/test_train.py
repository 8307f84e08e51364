"""Training for real, in this process, on CartPole."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lzero.checkpoint import list_checkpoints, load_state
from lzero.config import ExperimentConfig
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.run import Run
from lzero.logging import read_metrics
from lzero.policy import UniZeroMTPolicy
from lzero.replay.windows import ReplayWindows
from lzero.tags import plain
from tests.entry.run_cases import RATIO, STEPS, curves, settings, updates_by_step


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
        f"step_{int(RATIO * steps):06d}"
        for steps in (60, 80, 120)  # the only evaluated one, and the two newest
    ]
    state = load_state(checkpoints[-1])
    assert (state["env_steps"], state["train_iter"], state["seed"]) == (STEPS, result.train_iter, 3)
    assert ExperimentConfig.model_validate(state["config"]) == config
    assert not list((run_dir / "checkpoints").glob(".*"))

    events = EventAccumulator(str(run_dir / "tb")).Reload()
    tags = {plain(tag) for tag in events.Tags()["scalars"]}
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
    per_game += ("reward_recall", "value_correlation", "open_loop_latent_1", "open_loop_reward_1")
    assert {"health/target_lag", *(f"health/{name}/CartPole-v1" for name in per_game)} <= tags
    losses = [row["metrics"]["learn/loss"] for row in rows if "learn/loss" in row["metrics"]]
    assert [event.value for event in events.Scalars("20_learn/loss")] == pytest.approx(losses)
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
    "with a past, on predicted latents": {
        "policy.burn_in_steps": 2,
        "policy.loss": {"open_loop": 0.5},
        "policy.reanalyse_fraction": 0.5,
        "model.residual_latent": True,
    },
    "scaled returns": {"policy.scale_returns": True},
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


def test_returns_beyond_the_support_are_told_of_once_and_scaling_mends_them(tmp_path, caplog):
    """CartPole pays one a step: a support that ends at 0.74, says at most 2."""
    shares = {}
    for scaled in (False, True):
        caplog.clear()
        config = settings(
            tmp_path,
            {
                "exp_name": f"scaled_{scaled}",
                "policy.scale_returns": scaled,
                "policy.discount": 0.9,
                "model.support_limit": 0.74,
            },
        )
        with caplog.at_level("WARNING", "lzero"):
            train_unizero_multitask_segment_ddp(config)
        logged = curves(tmp_path / f"scaled_{scaled}")
        told = [record for record in caplog.records if "--policy.scale-returns" in record.message]
        metrics = [row["metrics"] for row in logged]
        shares[scaled] = [m["learn_saturated/CartPole-v1"] for m in metrics if "learn/loss" in m]
        scales = [
            m["collect_return_scale/CartPole-v1"] for m in metrics if any("scale" in k for k in m)
        ]
        assert len(told) == (not scaled) and all("say, 2" in record.message for record in told)
        assert (min(scales) >= 1 and scales[-1] > 1) if scaled else not scales
    assert shares[False][-1] > shares[True][-1]


def test_updates_see_shifted_pictures_with_their_past(tmp_path, monkeypatch):
    seen: list[ReplayWindows] = []
    learn: Callable = UniZeroMTPolicy.learn

    def watched_learn(policy, windows):
        seen.append(windows)
        return learn(policy, windows)

    monkeypatch.setattr(UniZeroMTPolicy, "learn", watched_learn)
    config = settings(
        tmp_path,
        {
            "env": {"domain": "zoo.catch.domain:CATCH", "games": ["Catch"], "num_envs": 2},
            "model.encoder": {"kind": "conv", "widths": [8]},
            "policy.burn_in_steps": 2,
            "policy.shift_pixels": 1,
            "train.max_env_steps": 60,
        },
    )
    train_unizero_multitask_segment_ddp(config)
    rows = 2 + config.policy.unroll_steps + config.policy.td_steps + 1
    assert seen and all(windows.observation.shape[1] == rows for windows in seen)
    # Catch draws its paddle in the lowest row of every picture, of which a shift makes another row
    frames = torch.cat([windows.observation[:, -1].sum(dim=1) for windows in seen])
    in_lowest_row = frames[:, -1].ne(0).any(dim=1)
    assert in_lowest_row.any() and not in_lowest_row.all()


def breaking(monkeypatch: pytest.MonkeyPatch, updates: range) -> None:
    """Let rewards be no numbers in some updates, as a broken kernel might make them."""
    sample: Callable = Run.sample

    def breaking_sample(run):
        windows = sample(run)
        if run.policy.train_iter in updates:
            windows = replace(windows, reward=windows.reward * torch.nan)
        return windows

    monkeypatch.setattr(Run, "sample", breaking_sample)


def test_updates_that_are_no_numbers_are_skipped_and_counted(tmp_path, monkeypatch, caplog):
    breaking(monkeypatch, range(8, 12))
    result = train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3)
    assert result.train_iter == int(RATIO * STEPS)
    assert re.search(r"\d update\(s\) skipped, .*the loss of CartPole-v1 is no number", caplog.text)
    skipped = [
        row["metrics"]["learn/skipped_updates"]
        for row in curves(tmp_path / "tiny")
        if "learn/skipped_updates" in row["metrics"]
    ]
    assert skipped[-1] == 4 and sorted(skipped) == skipped
    newest = list_checkpoints(tmp_path / "tiny" / "checkpoints")[-1]
    assert load_state(newest)["skipped"] == 4 and load_state(newest)["skipped_in_a_row"] == 0


def test_a_run_stops_where_too_many_are_skipped(tmp_path, monkeypatch):
    """Nothing is saved meanwhile, and what was learned from is kept; repaired, the run goes on."""
    breaking(monkeypatch, range(12, 1000))
    changes = {"train.log_interval": 1000, "policy.optimiser": {"max_skipped_updates": 6}}
    with pytest.raises(
        FloatingPointError, match=r"in a row were no numbers.*CartPole.*learning_rate"
    ) as stopped:
        train_unizero_multitask_segment_ddp(settings(tmp_path, changes), seed=3)
    newest = list_checkpoints(tmp_path / "tiny" / "checkpoints")[-1]
    assert load_state(newest)["train_iter"] <= 12
    [file] = (tmp_path / "tiny" / "faults").iterdir()
    assert str(file) in str(stopped.value) and load_file(file)["reward"].isnan().all()
    monkeypatch.undo()
    assert train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3).env_steps == STEPS


def test_parameters_that_are_no_numbers_are_not_saved(tmp_path):
    config = ExperimentConfig.model_validate(settings(tmp_path))
    with Run(config, seed=0, max_env_steps=STEPS, resume=True) as run:
        next(iter(run.policy.model.parameters())).data.view(-1)[0] = torch.inf
        with pytest.raises(
            FloatingPointError, match="no numbers after 0 updates and are not saved"
        ):
            run.save()
    assert not list_checkpoints(tmp_path / "tiny" / "checkpoints")


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
    with pytest.raises(FloatingPointError, match=r"no number.*policy\.optimiser\.learning_rate"):
        train_unizero_multitask_segment_ddp(config)
