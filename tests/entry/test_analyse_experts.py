"""The command that analyses experts, on a short real run: it reads, writes one file, and says what it cannot do."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lzero.analysis.expert_analysis import ANALYSIS_FILE, ExpertAnalysis
from lzero.analysis.specialisation import mutual_information
from lzero.checkpoint import CheckpointError, load_state
from lzero.entry import analyse_experts as command
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.analyse_experts import analyse_experts
from lzero.entry.eval_unizero_multitask import find_checkpoint
from lzero.entry.replay_files import _from_all_ranks, open_replay
from lzero.replay.sum_tree import PriorityConfig
from tests.entry.run_cases import settings
from tests.policy.unizero_cases import make_config
from tests.reliability.runs import run_settings
from tests.replay.buffer_cases import Stream, make

WINDOWS, EPISODES = 7, 2
QUICK = {"windows": WINDOWS, "permutations": 19, "device": "cpu"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Catch with experts, prioritised replay, scaled returns and reanalysis."""
    config = run_settings(tmp_path_factory.mktemp("runs"), "catch", {"model.num_layers": 2})
    return train_unizero_multitask_segment_ddp(config, seed=3).run_dir


def hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def analysed(run_dir) -> tuple[ExpertAnalysis, dict[str, str], dict[str, str]]:
    """The analysis, and the run's files before and after it."""
    before = hashes(run_dir)
    analysis = analyse_experts(run_dir, episodes=EPISODES, **QUICK)
    return analysis, before, hashes(run_dir)


def test_only_one_file_is_written(analysed):
    _, before, after = analysed
    assert after.keys() - before.keys() == {ANALYSIS_FILE}
    assert {name: after[name] for name in before} == before


def test_the_file_holds_everything(run_dir, analysed):
    analysis, _, _ = analysed
    again = ExpertAnalysis.read(run_dir / ANALYSIS_FILE)
    assert again._as_json() == analysis._as_json()
    assert (
        again.games == ("Catch", "MirroredCatch")
        and again.checkpoint == find_checkpoint(run_dir).name
    )
    assert again.env_steps == load_state(find_checkpoint(run_dir))["env_steps"] == 120
    assert again.returns.shape == (2, EPISODES)


def test_numbers_are_those_of_the_windows(analysed):
    analysis, _, _ = analysed
    assert np.bincount(analysis.task).tolist() == [WINDOWS, WINDOWS]
    for layer in analysis.layers.values():
        for task in (0, 1):
            own = layer.window_counts[analysis.task == task]
            np.testing.assert_array_equal(own.sum(axis=0), layer.counts[task])
        assert (layer.window_counts.sum(axis=1) == 2 * 3 + 1).all(), "tokens of a window"
        information = mutual_information(layer.counts).plug_in
        assert layer.information.observed == pytest.approx(float(information))
        assert 1 / 20 <= layer.information.p_value <= 1


def test_every_part_was_off_once(analysed):
    analysis, _, _ = analysed
    parts = [*(f"expert_{expert}" for expert in range(3)), "routed_experts", "shared_expert"]
    assert [(one.layer, one.part) for one in analysis.ablations] == [
        (layer, part) for layer in (0, 1) for part in parts
    ]
    weights = np.array([10.0, 1.0, 1.0, 0.5, 1.0])  # the defaults of LossConfig
    np.testing.assert_allclose(analysis.loss[-1], weights @ analysis.loss[:-1])
    for ablation in analysis.ablations:
        value, low, high = ablation.loss
        assert value.shape == (6, 2) and ablation.returns.shape == (3, 2)
        assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all()
        np.testing.assert_allclose(value[-1], weights @ value[:-1], atol=1e-9)
        expert = ablation.part.rpartition("_")[2]
        if expert.isdecimal():
            used = analysis.layers[ablation.layer].counts[:, int(expert)] > 0
            assert (np.abs(ablation.loss).max(axis=(0, 1)) > 0).tolist() == used.tolist()
    assert max(np.abs(one.loss).max() for one in analysis.ablations) > 1e-4


def test_the_same_seed_gives_the_same_file(run_dir, analysed):
    analysis, _, _ = analysed
    again = analyse_experts(find_checkpoint(run_dir), episodes=EPISODES, **QUICK)
    assert again._as_json() == analysis._as_json()
    other = analyse_experts(run_dir, seed=1, **QUICK)
    assert other.returns is None and other.loss.tolist() != analysis.loss.tolist()


def test_the_command_prints_tables(run_dir):
    arguments = [str(run_dir), "--windows", "4", "--permutations", "9", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "lzero.entry.analyse_experts", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert ANALYSIS_FILE in said and "expert_2" in said and "shared_expert" in said


def refusal(monkeypatch, *arguments: str) -> str:
    """What the command ends with."""
    monkeypatch.setattr(sys, "argv", ["analyse_experts", *arguments, "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return str(ended.value.code)


def test_what_cannot_be_analysed_is_said(tmp_path, run_dir, monkeypatch):
    assert "does not exist" in refusal(monkeypatch, str(tmp_path / "nowhere"))
    dense = settings(tmp_path, {"model.moe": {"enabled": False}, "train.video": False})
    run = train_unizero_multitask_segment_ddp(dense, max_env_step=40).run_dir
    assert "has dense blocks (model.moe.enabled=false)" in refusal(monkeypatch, str(run))
    state = load_state(find_checkpoint(run_dir))
    shared = state["config"]["model"] | {
        "moe": state["config"]["model"]["moe"] | {"num_experts": 0}
    }
    for change, reason in (
        ({"algorithm": "ppo"}, "is of PPO, which keeps no replay"),
        ({"model": shared}, "has shared experts alone"),
    ):
        changed = state | {"config": state["config"] | change}
        with monkeypatch.context() as patch:
            patch.setattr(command, "state_of_checkpoint", lambda path, changed=changed: changed)
            assert reason in refusal(monkeypatch, str(run_dir))


def test_a_replay_that_is_damaged_or_missing_is_said(tmp_path, run_dir, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(find_checkpoint(run_dir), copy / "checkpoints" / "step_000001")
    [frames, *_] = sorted((copy / "checkpoints" / "step_000001" / "rank_0").glob("frames-*"))
    frames.write_bytes(b"no frames")
    config = run_settings(tmp_path, "catch")
    replay = open_replay(copy / "checkpoints" / "step_000001", config)
    assert "windows with its frames are left out" in caplog.text and not replay.can_sample
    with pytest.raises(ValueError, match="holds no window yet"):
        analyse_experts(copy, **QUICK)
    (copy / "checkpoints" / "step_000001" / "rank_0" / "replay-rank.safetensors").unlink()
    with pytest.raises(CheckpointError, match="replay-rank.safetensors is missing"):
        analyse_experts(copy, **QUICK)


@pytest.mark.parametrize("priority", [None, PriorityConfig()], ids=["uniform", "prioritised"])
def test_the_replay_of_all_ranks_is_read_as_one(tmp_path, priority):
    """Two processes had a part of the environments each; together they are those of one."""
    tasks = np.array([0, 0, 1, 1, 1, 2])
    whole = Stream(make(tasks=tasks, priority=priority)).append(55)
    for rank, rings in enumerate((slice(0, 3), slice(3, 6))):
        part = make(tasks=tasks[rings], priority=priority)
        for row in whole.rows:
            part.append(**{name: values[rings] for name, values in row.items()})
        (tmp_path / f"rank_{rank}").mkdir()
        part.save(tmp_path / f"rank_{rank}", suffix="rank")
    read = _from_all_ranks(tmp_path, make_config(), 2, [])
    for buffer in (read, whole.buffer):
        assert buffer.task_id_of_ring.tolist() == tasks.tolist()
    sizes = {0: 4, 1: 5, 2: 3}
    one = read.sample(sizes, np.random.default_rng(0))
    other = whole.buffer.sample(sizes, np.random.default_rng(0))
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
