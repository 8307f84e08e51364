"""Conflict without noise in reports, against gradients whose halves are known."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from lzero.analysis.conflict import GradientConflict, compute_gradient_conflicts
from lzero.analysis.conflict_log import conflict_numbers
from lzero.analysis.conflict_parts import conflict_shares
from lzero.config import ExperimentConfig
from lzero.logging import RunLogger
from lzero.report import read_runs
from lzero.report.command import TABLES, main
from lzero.report.last_part import Part
from lzero.report.noise import pair_rows, pooled_conflicts, share_rows
from lzero.report.study import build_study

GAMES = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
MEASUREMENTS = 20  # the last four are in the last fifth
PARTS = ("shared_expert", "expert_0", "router")
Conflicts = dict[str, list[GradientConflict]]


def write_run(folder: Path, seed: int) -> Conflicts:
    """A run, and the conflicts that it logged in its last fifth."""
    env = {"domain": "zoo.classic_control.domain:CLASSIC_CONTROL", "games": GAMES}
    config = ExperimentConfig.model_validate({"exp_name": folder.name, "env": env})
    rng, last = np.random.default_rng(seed), dict[str, list[GradientConflict]]()
    truth = rng.normal(size=(3, 30))
    with RunLogger(folder, is_main=True) as log:
        (folder / "config.json").write_text(config.model_dump_json())
        for number in range(1, MEASUREMENTS + 1):
            conflicts = {}
            for component in ("encoder", *(f"{part}/layer0" for part in PARTS)):
                halves = torch.from_numpy(truth + 2 * rng.normal(size=(2, 3, 30)))
                if component == "expert_0/layer0" and number % 2:
                    halves[:, 2] = 0  # the third game does not use it
                conflicts[component] = compute_gradient_conflicts(*halves)
                if number > 0.8 * MEASUREMENTS:
                    last.setdefault(component, []).append(conflicts[component])
            scalars, arrays = conflict_numbers(conflicts)
            log.scalars(scalars, env_step=10 * number, train_iter=number)
            log.arrays(arrays, env_step=10 * number, train_iter=number)
    return last


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[Path, Conflicts]:
    folder = tmp_path_factory.mktemp("runs")
    return {folder / f"moe_s{seed}": write_run(folder / f"moe_s{seed}", seed) for seed in (0, 1)}


def test_what_was_logged_pools_as_what_was_measured(runs):
    for path, measured in runs.items():
        [run] = read_runs([path])
        found = pooled_conflicts(run, Part.last([run]))
        assert {component.name for component in found} == set(measured)
        for component, conflict in found.items():
            expected = GradientConflict.pooled(measured[component.name])
            assert len(conflict.products.gram) == 4
            for name in (
                "cosine_similarity_matrix",
                "denoised_cosine",
                "reliability",
                "gradient_norms",
            ):
                torch.testing.assert_close(
                    getattr(conflict, name), getattr(expected, name), equal_nan=True
                )
            torch.testing.assert_close(
                conflict.denoised_cosine_interval(),
                expected.denoised_cosine_interval(),
                equal_nan=True,
            )


def test_rows_of_pairs_and_shares(runs):
    study = build_study(list(runs))
    pairs, shares = list(pair_rows(study)), list(share_rows(study))
    assert all(tuple(row) == TABLES["conflict_pairs.csv"][0] for row in pairs)
    assert all(tuple(row) == TABLES["conflict_shares.csv"][0] for row in shares)
    assert len(pairs) == 2 * 4 * 3 and len(shares) == 2 * 3
    for path, measured in runs.items():
        own = [row for row in pairs if row["run"] == str(path) and row["component"] == "encoder"]
        pooled = GradientConflict.pooled(measured["encoder"])
        row = own[2]
        assert (row["game"], row["other_game"], row["measurements"]) == (*GAMES[1:], 4)
        assert row["denoised"] == pytest.approx(pooled.denoised_cosine[1, 2].item(), nan_ok=True)
        expected = conflict_shares(
            {part: GradientConflict.pooled(measured[f"{part}/layer0"]) for part in PARTS}
        )
        for row in shares:
            if row["run"] == str(path):
                share = expected[row["part"]]
                assert row["norm_share"] == pytest.approx(share.norm)
                assert row["conflict_share"] == pytest.approx(share.conflict, nan_ok=True)


def test_the_report_shows_both(runs, tmp_path):
    main([*map(str, runs), "--out", str(tmp_path / "report")])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "without noise" in page and "Excess above 1" in page and ", 3 pairs" in page
    with (tmp_path / "report" / "conflict_pairs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24
    assert (tmp_path / "report" / "conflict_reliability.png").stat().st_size > 10_000
    assert (tmp_path / "report" / "conflict_shares.png").stat().st_size > 10_000
