"""The released agents are what their page and their cards say."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

import lzero
from lzero.checkpoint.export_file import read_export
from lzero.entry.eval_unizero_multitask import eval_unizero_multitask
from lzero.policy import UniZeroMTPolicy

ROOT = Path(lzero.__file__).parents[1]
RELEASED = sorted((ROOT / "released").glob("*.zip"))
PAGE = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
MOST_BYTES = 2 * 2**20  # of all together: whoever clones the repository carries them
LEAST_DEVIATION = 0.35  # of a Catch episode (1 or -1): one lost in 32, where the card knows of none


def test_there_are_two_and_they_are_small():
    assert [path.name for path in RELEASED] == ["catch_moe.zip", "minatar_breakout_moe.zip"]
    assert sum(path.stat().st_size for path in RELEASED) <= MOST_BYTES


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_a_released_agent_is_what_is_said_of_it(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    [(size, stated)] = re.findall(rf"^\| `{path.name}` \|.* ([\d,]+) \| `(\w+)` \|$", PAGE, re.M)
    assert (stated, size) == (digest, f"{path.stat().st_size:,}")
    export = read_export(path)
    assert export.config["output_dir"] == "runs", "where it was trained is nobody's business"
    assert "Apache-2.0" in export.card
    for game, scores in export.scores["scores"].items():
        assert len(scores) >= 32
        assert f"| {game} | {np.mean(scores):.3f} ± " in export.card
    policy = UniZeroMTPolicy.from_export(path, device="cpu")
    assert policy.train_iter == export.agent.train_iter > 0
    assert policy.routed_layers, "both have mixtures of experts"


def test_catch_is_played_as_well_as_the_card_says(tmp_path):
    """Eight episodes of each game within three standard errors of the card's mean; a random player gets -0.6."""
    [path] = [path for path in RELEASED if path.name == "catch_moe.zip"]
    table = eval_unizero_multitask(
        path, episodes=8, seed=1, video=False, device="cpu", output_dir=tmp_path
    )
    for game, stated in read_export(path).scores["scores"].items():
        error = max(np.std(stated), LEAST_DEVIATION) / np.sqrt(8)
        assert abs(table.scores[game].mean() - np.mean(stated)) <= 3 * error
        assert table.scores[game].mean() > 0
