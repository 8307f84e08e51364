"""MinAtar's script: its presets, a run of one, and what it says where the package is missing."""

import runpy
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

import lzero
from lzero.distributed import Distributed
from lzero.logging import read_metrics
from zoo.minatar.config.presets import THREE, presets
from zoo.minatar.domain import MINATAR
from zoo.minatar.envs import GAMES, MinAtarVectorEnv

ROOT = Path(lzero.__file__).parents[1]
SCRIPT = ROOT / "zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config_moe.py"


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["minatar"] = None
from zoo.minatar.config.presets import presets
from zoo.minatar.domain import MINATAR
config = presets(moe=True)["three"][1].env
try:
    MINATAR.make(config, config.games, (0,), (1,), env_offsets=(0,), training=True, num_threads=1)
except ImportError as error:
    sys.exit(str(error))
"""


def test_only_making_a_game_needs_the_package() -> None:
    """Everything before, such as the script's --help, works without; then the message says what to
    type."""
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "pip install minatar" in done.stderr.splitlines()


TRAIN_WITHOUT_THE_PACKAGE = """
import sys
sys.modules["minatar"] = None
from lzero.entry.cli import main
from zoo.minatar.config.presets import presets
main(presets(moe=True), "breakout", ["--output-dir", sys.argv[1]])
"""


def test_training_without_the_package_ends_with_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAIN_WITHOUT_THE_PACKAGE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.startswith("error: MinAtar games need") and "pip install minatar" in done.stderr
    )


def test_another_missing_package_is_not_blamed_on_minatar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "minatar", raising=False)
    monkeypatch.setitem(sys.modules, "minatar.environment", None)
    with pytest.raises(ModuleNotFoundError, match=r"minatar\.environment"):
        MinAtarVectorEnv("Breakout", 1)


@pytest.mark.parametrize("moe", [True, False])
def test_presets_are_what_their_names_say(moe: bool) -> None:
    made = {
        name: config
        for name, (_, config) in presets(moe=moe).items()
        if not name.startswith("conflict_study")
    }
    assert {name: config.env.games for name, config in made.items()} == {
        "breakout": ("Breakout",),
        "three": ("Breakout", "Asterix", "SpaceInvaders"),
        "five": tuple(GAMES),
    }
    assert len({config.exp_name for config in made.values()}) == 3
    for config in made.values():
        assert config.model.moe.enabled == moe
        assert (config.model.moe.num_experts, config.model.moe.num_shared_experts) == (8, 1)
        assert not config.env.clip_reward and not config.env.end_on_life_loss


SHORT = (
    *("--env.num-envs", "2", "--env.num-eval-envs", "2", "--env.max-episode-steps", "30"),
    *("--model.embed-dim", "16", "--model.num-heads", "2", "--model.num-layers", "1"),
    *("--model.encoder.widths", "8", "--policy.batch-size", "4", "--policy.replay.capacity", "400"),
    *("--policy.unroll-steps", "5"),
    *("--policy.search.num-simulations", "4", "--policy.search.num-eval-simulations", "2"),
    *("--train.max-env-steps", "80", "--train.eval-interval", "80", "--train.eval-episodes", "2"),
    *("--train.checkpoint-interval", "80", "--train.log-interval", "1", "--device", "cpu"),
)


def test_the_script_trains_on_three_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run in short: finite losses, a score and a film per game, the aggregates."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "three", "--output-dir", str(tmp_path), *SHORT])
    monkeypatch.setattr(Distributed, "threads", 1)
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    run_dir = tmp_path / "minatar_three_moe"
    rows = [row["metrics"] for row in read_metrics(run_dir / "metrics.jsonl")]
    losses = [row for row in rows if "learn/loss" in row]
    assert len(losses) == int(0.1 * 80)
    [evaluated] = [row for row in rows if "eval_aggregate/iqm" in row]
    for game in THREE:
        assert all(np.isfinite(row[f"learn_loss/{game}"]) for row in losses)
        assert evaluated[f"eval_normalised/{game}"] == pytest.approx(
            evaluated[f"eval_return/{game}"] / MINATAR.reference_scores(game)["random"]
        )
        with imageio.get_reader(run_dir / "videos" / f"{game}.mp4") as video:
            frames = [frame for frame in video]  # a film does not know its length
        assert 2 < len(frames) <= 31 and frames[0].shape == (320, 320, 3)
