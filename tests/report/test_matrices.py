"""Matrices of a report: means over seeds and training, one seed's experts, and their places in a picture."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from lzero.report import matrices
from lzero.report.matrices import (
    MATRIX_COLUMNS,
    conflict_blocks,
    matrix_rows,
    nan_mean,
    selection_blocks,
    similarity_blocks,
)
from lzero.report.pictures import PICTURES, MatrixPicture
from lzero.report.run_data import Group, RunData, Series
from lzero.report.study import Study

HEATMAPS = [picture for picture in PICTURES if isinstance(picture, MatrixPicture)]
CONFLICT_MATRICES, SELECTION_MATRICES, _ = HEATMAPS
TAG = "gradient_conflict_matrix/moe_layer/layer0"
SHORT = "expert_selection/short/layer0"


def run_of(
    name: str, arrays: Mapping[str, Mapping[int, object]], games: list[str], end: float = 1000.0
) -> RunData:
    fields = {"exp_name": name, "env.domain": "nowhere:NOTHING", "env.games": games}
    read = {
        tag: {step: [np.array(values, float)] for step, values in steps.items()}
        for tag, steps in arrays.items()
    }
    return RunData(
        Path("runs") / name, fields, {"learn/loss": Series(np.array([end]), np.zeros(1))}, read
    )


def study_of(*groups: list[RunData]) -> Study:
    made = tuple(Group(f"group {n}", tuple(runs), runs[0].fields) for n, runs in enumerate(groups))
    return Study(made, (), (), {}, ())


def cosine(value: float) -> list[list[float]]:
    return [[1.0, value], [value, 1.0]]


def test_means_skip_what_is_no_number():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan]])
    assert nan_mean(values)[:2].tolist() == [2.0, 4.0] and np.isnan(nan_mean(values)[2])


def test_conflict_matrices_are_means_over_the_last_fifth_and_seeds():
    games = ["Pong", "Boxing"]
    one = run_of("a", {TAG: {500: cosine(9), 900: cosine(0.1), 1000: cosine(0.3)}}, games)
    other = run_of(
        "b",
        {TAG: {700: cosine(-0.5)}, "gradient_conflict_matrix/expert_1/layer0": {900: cosine(0)}},
        games,
    )
    late = run_of("c", {TAG: {1500: cosine(9)}}, games, end=2000.0)
    [block] = conflict_blocks(study_of([one, other, late]))
    [matrix] = block.matrices
    assert matrix.values[0, 1] == pytest.approx((0.2 - 0.5) / 2), (
        "the second's last before the end; the third's too late"
    )
    assert matrix.seeds == (str(one.path), str(other.path)) and (
        matrix.part.start,
        matrix.part.end,
    ) == (800.0, 1000.0)
    assert (
        block.title.startswith("moe_layer (its parameters)") and matrix.title == "group 0, layer 0"
    )
    [block] = conflict_blocks(study_of([late, run_of("d", {}, games)]))
    assert block.matrices[0].part.end == 2000.0, "a seed without matrices cuts nobody's"
    assert conflict_blocks(study_of([run_of("d", {}, games)])) == []


def test_measurements_at_one_env_step_all_count():
    run = run_of(
        "a",
        {TAG: {900: cosine(0.0), 1000: cosine(0.1)}, SHORT: {1000: [[1.0, 0.0]] * 2}},
        ["Pong", "Boxing"],
    )
    run.arrays[TAG][1000].append(np.array(cosine(0.3)))
    run.arrays[SHORT][1000].append(np.array([[0.0, 1.0]] * 2))
    [block], [selection] = conflict_blocks(study_of([run])), selection_blocks(study_of([run]))
    assert block.matrices[0].values[0, 1] == pytest.approx((0.0 + 0.2) / 2), (
        "as scalars: of the step, then of the steps"
    )
    assert selection.matrices[0].values.tolist() == [[0.0, 1.0]] * 2, (
        "a window counts what went before"
    )


def test_every_group_has_its_panels_and_games_their_rows():
    first = run_of(
        "a",
        {TAG: {1000: cosine(0.1)}, "gradient_conflict_matrix/encoder": {1000: cosine(0.2)}},
        ["Pong", "Boxing"],
    )
    second = run_of("b", {TAG: {1000: cosine(0.3)}}, ["Boxing", "Alien"])
    study = study_of([first], [second])
    blocks = conflict_blocks(study)
    assert [[matrix.title for matrix in block.matrices] for block in blocks] == [
        ["group 0"],
        ["group 0, layer 0", "group 1, layer 0"],
    ]
    rows = list(matrix_rows(study))
    assert all(tuple(row) == MATRIX_COLUMNS for row in rows) and len(rows) == 3 * 4
    [cell] = [
        row["value"]
        for row in rows
        if (row["group"], row["row"], row["column"]) == ("group 1", "Boxing", "Alien")
    ]
    assert cell == 0.3
    shape = imread(io.BytesIO(CONFLICT_MATRICES.draw(study).png)).shape
    assert shape[0] > 100 and 300 < shape[1] <= 1400


def test_expert_heatmaps_are_the_last_of_one_seed():
    idle = run_of("a", {}, ["Pong", "Boxing"])
    seed = run_of("b", {SHORT: {1000: [[1, 0, 0], [0, 1, 0]], 500: [[9, 9, 9], [9, 9, 9]]},
                        "expert_selection/short/layer10": {1000: np.ones((2, 3))},
                        "expert_selection/short/layer2": {1000: np.ones((2, 3))},
                        "expert_selection/long/layer0": {1000: np.ones((2, 3))}}, ["Pong", "Boxing"])  # fmt: skip
    other = run_of("c", {SHORT: {1000: np.full((2, 3), 7.0)}}, ["Pong", "Boxing"])
    study = study_of([idle, seed, other], [idle])
    block, long = selection_blocks(study)
    assert (
        "short window (last 1,000 updates)" in block.title
        and "long window" in long.title
        and len(long.matrices) == 1
    )
    assert [matrix.title for matrix in block.matrices] == [
        f"group 0, b, layer {layer}" for layer in (0, 2, 10)
    ]
    assert block.matrices[0].values.tolist() == [[1, 0, 0], [0, 1, 0]] and block.matrices[
        0
    ].seeds == (str(seed.path),)
    assert block.matrices[0].columns == ("0", "1", "2") and block.matrices[0].part.end == 1000
    text = SELECTION_MATRICES.draw(study).text
    assert f"Shown: group 0: {seed.path}." in text and "of one seed" in text


def test_groups_with_other_numbers_of_experts_and_games_share_a_picture():
    few = run_of("a", {SHORT: {1000: [[1.0, 0.0]]}}, ["Pong"])
    many = run_of("b", {SHORT: {1000: [[0.2, 0.2, 0.2, 0.4], [np.nan] * 4]}}, ["Boxing", "Pong"])
    study = study_of([few], [many])
    alone = imread(io.BytesIO(SELECTION_MATRICES.draw(study_of([few])).png)).shape
    assert imread(io.BytesIO(SELECTION_MATRICES.draw(study).png)).shape[0] > alone[0], (
        "a row for each game of any group"
    )
    assert [len(matrix.columns) for matrix in selection_blocks(study)[0].matrices] == [2, 4]
    assert len([row for row in matrix_rows(study) if np.isnan(row["value"])]) == 4, (
        "no cell of a game that a group lacks"
    )


def test_games_in_another_order_keep_their_names(monkeypatch):
    study = study_of(
        [run_of("a", {SHORT: {1000: [[0.1, 0.9], [0.4, 0.6]]}}, ["Pong", "Boxing"])],
        [run_of("b", {SHORT: {1000: [[0.2, 0.8], [0.3, 0.7]]}}, ["Boxing", "Alien"])],
    )
    drawn = []
    monkeypatch.setattr(
        matrices,
        "heatmap_image",
        lambda *args, **_: drawn.append(args) or np.zeros((3, 5, 5), np.uint8),
    )
    SELECTION_MATRICES.draw(study)
    [(panels, rows, columns)] = drawn
    assert (rows, columns) == (["Pong", "Boxing", "Alien"], ["0", "1"])
    first, second = panels.values()
    assert first[:2].tolist() == [[0.1, 0.9], [0.4, 0.6]] and np.isnan(first[2]).all()
    assert second[1:].tolist() == [[0.2, 0.8], [0.3, 0.7]] and np.isnan(second[0]).all()


def test_blocks_stand_side_by_side_until_the_picture_is_full():
    def shape(count: int) -> tuple[int, ...]:
        arrays = {
            f"gradient_conflict_matrix/part{number}": {1000: cosine(0.1)} for number in range(count)
        }
        picture = CONFLICT_MATRICES.draw(study_of([run_of("a", arrays, ["Pong", "Boxing"])]))
        return imread(io.BytesIO(picture.png)).shape

    one, two, many = shape(1), shape(2), shape(7)
    assert two[0] == one[0] and two[1] > 1.9 * one[1]
    assert many[1] <= 1400 < 7 * one[1] and many[0] > 1.9 * one[0]


def test_nothing_gives_no_picture():
    study = study_of([run_of("a", {"eval_scores/Pong": {10: [1.0]}}, ["Pong"])])
    assert [picture.draw(study) for picture in HEATMAPS] == [None] * len(HEATMAPS)
    assert similarity_blocks(study) == [] and list(matrix_rows(study)) == []
