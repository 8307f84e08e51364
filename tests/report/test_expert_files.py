"""Analyses in the folders of runs, in a report: as they are, missing ones named, seeds compared after pairing."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from lzero.analysis.expert_analysis import (
    ANALYSIS_FILE,
    Ablation,
    ExpertAnalysis,
    LayerSelection,
)
from lzero.analysis.specialisation import router_null
from lzero.report.command import main
from lzero.report.expert_files import (
    ANALYSIS_COLUMNS,
    MATCHING_COLUMNS,
    ablation_blocks,
    analysis_notes,
    analysis_rows,
    information_estimates,
    matching_rows,
)
from lzero.report.expert_pictures import EXPERT_PICTURES
from lzero.report.page_tables import expert_analysis_tables
from lzero.report.run_data import RunDataError, read_runs
from lzero.report.study import Study, build_study
from tests.report.logged_runs import lines_of, write_run

GAMES = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "Other-v0")
EXPERTS, WINDOWS = 4, 6
OF_GAME = [0, 0, 1, 2, 3]  # the expert that each game prefers


def analysis_of(order: list[int], *, games=GAMES, returns: bool = False) -> ExpertAnalysis:
    """Games prefer experts of their own, which are numbered by ``order``."""
    rng, tasks = np.random.default_rng(order), len(games)
    task = np.repeat(np.arange(tasks), WINDOWS)
    layers = {}
    for layer in (0, 2):
        shares = np.full((tasks, EXPERTS), 0.05)
        for number in range(tasks):
            shares[number, order[OF_GAME[number]]] = 0.85
        counts = rng.multinomial(15, shares[task])
        null = router_null(counts, task, tasks, permutations=19, rng=rng)
        of_task = counts.reshape(tasks, WINDOWS, EXPERTS).sum(axis=1)
        layers[layer] = LayerSelection(counts, of_task, null.information, null.entropy)
    ablations = []
    for layer in layers:
        for part in (*(f"expert_{e}" for e in range(EXPERTS)), "routed_experts", "shared_expert"):
            loss = rng.normal(size=(3, 2, tasks))
            ablations.append(Ablation(layer, part, loss, loss[:, 0] if returns else None))
    base, played = rng.normal(size=(2, tasks)), rng.normal(size=(tasks, 3))
    return ExpertAnalysis(
        checkpoint="step_000040",
        train_iter=40,
        env_steps=150,
        seed=0,
        permutations=19,
        games=tuple(games),
        terms=("reward", "total"),
        task=task,
        layers=layers,
        loss=base,
        returns=played if returns else None,
        ablations=tuple(ablations),
    )


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two seeds of five games, both analysed, the second with other numbers of experts."""
    found = []
    for seed, order in enumerate(([0, 1, 2, 3], [2, 0, 3, 1])):
        env = {"domain": "elsewhere:DOMAIN", "games": GAMES}
        moe = {"moe": {"num_experts": EXPERTS}}
        run = write_run(tmp_path / f"moe_s{seed}", lines_of(seed), env=env, model=moe)
        analysis_of(order, returns=seed == 1).write(run / ANALYSIS_FILE)
        found.append(run)
    return found


@pytest.fixture
def study(runs) -> Study:
    return build_study(runs)


def test_a_file_gives_back_what_was_written(tmp_path):
    analysis = analysis_of([1, 0, 2, 3], returns=True)
    first = analysis.layers[0]
    unknown = replace(first.information, p_value=np.array(np.nan))
    layers = {**analysis.layers, 0: replace(first, information=unknown)}
    analysis = replace(analysis, layers=layers)
    analysis.write(tmp_path / ANALYSIS_FILE)
    assert [path.name for path in tmp_path.iterdir()] == [ANALYSIS_FILE]
    again = ExpertAnalysis.read(tmp_path / ANALYSIS_FILE)
    assert np.isnan(again.layers[0].information.p_value) and "NaN" not in (
        tmp_path / ANALYSIS_FILE
    ).read_text(encoding="utf-8")
    np.testing.assert_array_equal(again.layers[2].window_counts, analysis.layers[2].window_counts)
    np.testing.assert_array_equal(again.ablations[3].loss, analysis.ablations[3].loss)
    assert again._as_json() == analysis._as_json()


def test_every_number_is_in_a_row(study):
    rows = list(analysis_rows(study))
    assert all(tuple(row) == ANALYSIS_COLUMNS for row in rows)
    second = study.groups[0].runs[1].expert_analysis
    of_second = [row for row in rows if row["seed"].endswith("moe_s1")]
    [row] = [
        row for row in of_second if (row["quantity"], row["layer"]) == ("mutual_information", 2)
    ]
    test = second.layers[2].information
    assert (row["value"], row["null_high"], row["p_value"], row["env_step"]) == (
        float(test.observed),
        float(test.quantiles[-1]),
        float(test.p_value),
        150,
    )
    assert row["p_value"] == 0.05 and row["value"] > row["null_high"]
    changes = {
        (row["layer"], row["part"], row["game"]): (row["value"], row["low"], row["high"])
        for row in of_second
        if row["quantity"] == "loss_change_total"
    }
    for ablation in second.ablations:
        for task, game in enumerate(GAMES):
            expected = tuple(ablation.loss[:, 1, task])
            assert changes[ablation.layer, ablation.part, game] == expected
    played = {row["seed"] for row in rows if row["quantity"] == "return_change"}
    assert played == {study.groups[0].runs[1].name}
    shares = [row["value"] for row in of_second if row["quantity"] == "share_of_selections"]
    assert sum(shares) == pytest.approx(2 * len(GAMES))


def test_seeds_agree_once_their_experts_are_paired(study):
    rows = list(matching_rows(study))
    assert [row["layer"] for row in rows] == [0, 2]
    for row in rows:
        assert tuple(row) == MATCHING_COLUMNS and row["num_games"] == 5
        assert row["experts"] == "2 0 3 1" and row["similarity"] > 0.8
        assert row["null_mean"] < row["similarity"] and row["p_value"] < 0.1


def test_pictures_show_chance_and_what_each_game_loses(study):
    estimates = information_estimates(study)
    assert [(one.panel, one.name) for one in estimates] == [
        (f"layer {layer}", f"moe_s{seed}") for seed in (0, 1) for layer in (0, 2)
    ]
    assert all(one.low < one.high < one.value for one in estimates)
    [block] = ablation_blocks(study)
    assert [matrix.title for matrix in block.matrices] == [
        "moe, moe_s0, layer 0",
        "moe, moe_s0, layer 2",
    ]
    matrix = block.matrices[1]
    assert matrix.columns == ("0", "1", "2", "3", "all", "shared") and matrix.rows == GAMES
    first = study.groups[0].runs[0].expert_analysis
    np.testing.assert_array_equal(matrix.values[:, 4], first.ablations[10].loss[0, 1])
    for picture in EXPERT_PICTURES:
        drawn = picture.draw(study)
        assert min(imread(io.BytesIO(drawn.png)).shape[:2]) > 100
    assert str(study.groups[0].runs[0].path) in drawn.text


def test_the_report_has_pictures_and_tables(runs, tmp_path):
    main([*map(str, runs), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for picture in EXPERT_PICTURES:
        assert f'<figure id="{picture.name}">' in page
    for words in ("Effective number of experts of each game", "Hungarian method", "by chance"):
        assert words in page
    for name, columns in (
        ("expert_analysis.csv", ANALYSIS_COLUMNS),
        ("expert_matching.csv", MATCHING_COLUMNS),
    ):
        with (tmp_path / "out" / name).open(newline="", encoding="utf-8") as file:
            assert tuple(next(csv.reader(file))) == columns


def test_what_lacks_is_named(runs, study):
    assert list(analysis_notes(study)) == [
        f"{run}: its experts were analysed after 150 of 200 env steps per game (step_000040)"
        for run in runs
    ]
    (runs[1] / ANALYSIS_FILE).unlink()
    one = build_study(runs)
    assert (
        f"{runs[1]} has no {ANALYSIS_FILE}: type python -m lzero.entry.analyse_experts {runs[1]}"
        in list(analysis_notes(one))
    )
    assert list(matching_rows(one)) == [] and "Hungarian" not in str(expert_analysis_tables(one))
    (runs[0] / ANALYSIS_FILE).unlink()
    none = build_study(runs)
    assert list(analysis_notes(none)) == list(analysis_rows(none)) == []
    assert [picture.draw(none) for picture in EXPERT_PICTURES] == [None, None]
    assert all(picture.expected(none) for picture in EXPERT_PICTURES)
    assert expert_analysis_tables(none) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read: Expecting property name"),
        ('{"format_version": 7}', "format version 7, this program reads 1"),
        ('{"format_version": 1, "games": ["a"]}', "it is no analysis of experts"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(runs, content, says):
    (runs[0] / ANALYSIS_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(RunDataError, match=says) as caught:
        read_runs(runs)
    assert "python -m lzero.entry.analyse_experts" in str(caught.value)


def test_a_file_of_other_games_is_an_error(runs):
    analysis_of([0, 1, 2, 3], games=GAMES[:3]).write(runs[0] / ANALYSIS_FILE)
    with pytest.raises(
        RunDataError, match="is of CartPole-v1, Acrobot-v1, MountainCar-v0, the run"
    ):
        read_runs(runs)
