"""Scores over games: aggregates against a sorted list, the table keyed by game name."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from lzero.worker.score_table import ScoreTable, aggregate


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 26])
def test_aggregate_against_a_sorted_list(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    result = aggregate({f"game {index}": value for index, value in enumerate(values)})
    ordered = sorted(values)
    cut = count // 4
    middle = ordered[cut : count - cut]
    assert result["mean"] == pytest.approx(sum(values) / count)
    assert result["median"] == pytest.approx((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
    assert result["iqm"] == pytest.approx(sum(middle) / len(middle))


def test_aggregate_refuses_what_it_cannot_average():
    with pytest.raises(ValueError, match="at least one game"):
        aggregate({})
    with pytest.raises(ValueError, match="scores of Pong are not finite"):
        aggregate({"Pong": math.nan, "Boxing": 1.0})


SCORES = {
    "Pong": np.array([-21.0, -19.0, -20.0]),
    "Boxing": np.array([10.0, 30.0, 20.0]),
    "Homebrew": np.array([5.0, 7.0, 6.0]),
}
SCALES = {"Pong": (-20.7, 14.6), "Boxing": (0.1, 12.1)}


def normalise(game: str, score: float) -> float | None:
    if game not in SCALES:
        return None
    random, human = SCALES[game]
    return (score - random) / (human - random)


def test_a_table_normalises_means_and_leaves_out_games_without_a_scale():
    table = ScoreTable.build(SCORES, normalise)
    expected = {"Pong": 0.7 / 35.3, "Boxing": 19.9 / 12}
    assert table.normalised == pytest.approx(expected)
    assert table.aggregates() == pytest.approx(aggregate(expected))
    metrics = table.metrics()
    assert {name: metrics[f"eval_return/{name}"] for name in SCORES} == {
        "Pong": -20,
        "Boxing": 20,
        "Homebrew": 6,
    }
    assert metrics["eval_normalised/Boxing"] == pytest.approx(19.9 / 12)
    assert metrics["eval_aggregate/mean"] == pytest.approx((0.7 / 35.3 + 19.9 / 12) / 2)
    assert "eval_normalised/Homebrew" not in metrics
    assert all(isinstance(value, float) for value in metrics.values())


def test_the_order_of_games_does_not_matter():
    turned = ScoreTable.build(dict(reversed(SCORES.items())), normalise)
    assert turned.metrics() == pytest.approx(ScoreTable.build(SCORES, normalise).metrics())


def test_without_a_common_scale_there_are_no_aggregates():
    table = ScoreTable.build(SCORES, lambda game, score: None)
    assert table.aggregates() == {} and table.normalised == {}
    assert set(table.metrics()) == {f"eval_return/{game}" for game in SCORES}


def test_the_printed_table_shows_every_game_and_aggregate():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(ScoreTable.build(SCORES, normalise).render("evaluation at 160 env steps"))
    lines = console.export_text().splitlines()
    rows = {line.split()[1]: line for line in lines if "│" in line}
    assert "evaluation at 160 env steps" in "\n".join(lines)
    assert (
        "-20.0" in rows["Pong"]
        and "0.8" in rows["Pong"]
        and "3" in rows["Pong"]
        and "0.020" in rows["Pong"]
    )
    assert "6.0" in rows["Homebrew"] and "–" in rows["Homebrew"]
    assert f"{(0.7 / 35.3 + 19.9 / 12) / 2:.3f}" in rows["mean"]
    assert {"median", "IQM"} <= set(rows)
