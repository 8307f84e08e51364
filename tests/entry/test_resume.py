"""Stopping and continuing: what is restored, what may change on the way, what is refused."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lzero.checkpoint import CheckpointError, list_checkpoints, load_state
from lzero.config import ExperimentConfig
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError, load_policy_state
from lzero.entry.run import Run
from lzero.policy import UniZeroMTPolicy
from lzero.report.study import build_study
from tests.entry.run_cases import RATIO, STEPS, curves, settings, updates_by_step
from tests.reliability.damage import resign


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
            tmp_path,
            {
                "policy.loss": {"adaptive_entropy": True},
                "policy.scale_returns": True,
                "model.moe": {"balance": "bias"},
            },
        )
    )
    train_unizero_multitask_segment_ddp(config, seed=3)
    old, kept = saved[-1], saved[-1].kept
    torch.manual_seed(99)
    with Run(config, seed=3, max_env_steps=2 * STEPS, resume=True) as run:
        assert (run.env_steps, run.policy.train_iter) == (old.env_steps, old.policy.train_iter)
        assert (run.learning_since, run.last_returns) == (old.learning_since, old.last_returns)
        assert run.reward_rate.state() == old.reward_rate.state() and run.reward_rate.by_game()
        assert (
            run.return_scale.totals() == old.return_scale.totals()
            and run.return_scale.by_task()[0] > 1
        )
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
    assert again.scores == finished[1].scores and again.aggregates == finished[1].aggregates
    assert curves(copied / "tiny") == curves(finished[0] / "tiny"), "nothing is written twice"
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


def test_a_state_that_contradicts_its_manifest_is_not_read(copied):
    file = list_checkpoints(copied / "tiny" / "checkpoints")[-1] / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"world_size": 2}))
    resign(file.parent, file)
    with pytest.raises(
        CheckpointError, match=r"manifest.json and state.json do not belong together"
    ):
        train_unizero_multitask_segment_ddp(
            settings(copied), max_env_step=STEPS + 20, resume=file.parent
        )


def test_an_existing_run_is_not_overwritten(copied):
    before = contents(copied / "tiny")
    with pytest.raises(RunError, match="resume is 'never'.*exp_name"):
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
