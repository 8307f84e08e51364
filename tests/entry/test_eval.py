"""Evaluating a checkpoint; a wrong path is an error, never a random agent."""

import json
import subprocess
import sys

import pytest

from lzero.checkpoint import CheckpointError
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.eval_unizero_multitask import eval_unizero_multitask, find_checkpoint, load_policy

GAME = "CartPole-v1"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    config = {
        "exp_name": "tiny",
        "output_dir": tmp_path_factory.mktemp("runs"),
        "env": {
            "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
            "games": [GAME],
            "num_envs": 2,
            "num_eval_envs": 2,
            "max_episode_steps": 30,
        },
        "model": {
            "embed_dim": 16,
            "num_heads": 2,
            "num_layers": 1,
            "encoder": {"kind": "mlp", "hidden": [8]},
        },
        "policy": {
            "batch_size": 4,
            "replay": {"capacity": 1000},
            "search": {"num_simulations": 3, "num_eval_simulations": 3},
        },
        "train": {"max_env_steps": 80, "eval_episodes": 2, "eval_interval": 1000},
    }
    return train_unizero_multitask_segment_ddp(config).run_dir


def test_evaluates_the_newest_checkpoint_and_writes_the_scores(run_dir):
    table = eval_unizero_multitask(run_dir, episodes=3, video=False)
    assert table.scores[GAME].shape == (3,)
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert report["scores"][GAME] == table.scores[GAME].tolist()
    again = eval_unizero_multitask(find_checkpoint(run_dir), episodes=3, video=False)
    assert again.scores[GAME].tolist() == table.scores[GAME].tolist()


def test_the_policy_has_the_checkpoints_parameters(run_dir):
    from safetensors.torch import load_file

    checkpoint = find_checkpoint(run_dir)
    stored = load_file(checkpoint / "model.safetensors")
    policy = load_policy(checkpoint, simulations=7)
    assert policy.config.policy.search.num_eval_simulations == 7
    assert all((value == stored[name]).all() for name, value in policy.model.state_dict().items())


def test_the_command_says_where_the_scores_are(run_dir):
    command = [
        sys.executable,
        "-m",
        "lzero.entry.eval_unizero_multitask",
        str(run_dir),
        "--episodes",
        "1",
        "--no-video",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "evaluation.json" in done.stdout + done.stderr, (
        done.stdout + done.stderr
    )
    with pytest.raises(ValueError, match="simulations=0: allowed"):
        eval_unizero_multitask(run_dir, simulations=0)


def test_a_wrong_path_is_an_error(tmp_path, run_dir):
    with pytest.raises(CheckpointError, match="does not exist"):
        eval_unizero_multitask(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        eval_unizero_multitask(tmp_path)
    command = [
        sys.executable,
        "-m",
        "lzero.entry.eval_unizero_multitask",
        str(tmp_path / "nowhere"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "does not exist" in done.stderr and "Traceback" not in done.stderr
