"""The Atari command as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

import lzero
from lzero.checkpoint import list_checkpoints, load_state
from lzero.config import ExperimentConfig
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from lzero.logging import read_metrics
from tests.entry.run_cases import settings

ROOT = Path(lzero.__file__).parents[1]
SCRIPT = "zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py"
RUN_TIMEOUT_SECONDS = 120

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
