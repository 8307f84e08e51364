"""What the analyses came to, against sums by hand."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from lzero.report.analysis_tables import (
    CONFLICT_COLUMNS,
    EXPERT_COLUMNS,
    conflict_rows,
    expert_rows,
)
from lzero.report.last_part import NO_NUMBER, NOT_ENOUGH_SEEDS, OVER_BOTH_GROUPS
from lzero.report.notes import analysis_notes
from lzero.report.run_data import Group, RunData, Series
from lzero.report.statistics import ONE_SEED, OVER_SEEDS, bootstrap_difference
from lzero.report.study import Study

GAMES = ["Pong", "Boxing"]
FIELDS = {"exp_name": "x", "env.domain": "nowhere:NOTHING", "env.games": GAMES}
STEPS = np.array([100.0, 500.0, 900.0, 1000.0])


def run_of(
    name: str, tags: Mapping[str, Sequence[float]], *, fields: Mapping[str, object] = FIELDS
) -> RunData:
    """Every tag has values at ``STEPS``; the last two are in the last fifth."""
    scalars = {tag: Series(STEPS, np.array(values, float)) for tag, values in tags.items()}
    return RunData(Path(name), fields, scalars, {})


def study_of(**groups: Sequence[RunData]) -> Study:
    made = tuple(Group(label, tuple(runs), runs[0].fields) for label, runs in groups.items())
    return Study(made, (), (), {}, ())


def conflict(shift: float = 0.0) -> dict[str, list[float]]:
    """Two layers: at the end a shared expert of 0.8, routed ones of 0.2 and 0.4, and one without any."""
    tags = {}
    for layer in (0, 1):
        shared = 0.8 + shift + layer
        tags |= {
            f"gradient_conflict/max_shared_expert/layer{layer}": [
                9.0,
                9.0,
                shared - 0.1,
                shared + 0.1,
            ],
            f"gradient_conflict/max_expert_0/layer{layer}": [9.0, 9.0, 0.2, math.nan],
            f"gradient_conflict/max_expert_1/layer{layer}": [9.0, 9.0, 0.3, 0.5],
            f"gradient_conflict/max_expert_2/layer{layer}": [math.nan] * 4,
            # on the pairs that a routed expert has, the shared one has 0.2 less
            f"gradient_conflict_matched/shared_expert/layer{layer}": [
                9.0,
                9.0,
                shared - 0.3,
                shared - 0.1,
            ],
            f"gradient_conflict_matched/routed_experts/layer{layer}": [9.0, 9.0, 0.2, 0.4],
        }
    return tags | {"gradient_conflict/max_encoder": [9.0, 9.0, shift, shift]}


def test_conflict_in_the_last_fifth():
    silent = {"gradient_conflict/max_router/layer0": [math.nan] * 4}
    study = study_of(moe=[run_of("a", conflict() | silent), run_of("b", conflict(0.2))])
    rows = {row["component"]: row for row in conflict_rows(study)}
    assert all(set(row) == set(CONFLICT_COLUMNS) for row in rows.values())
    expected = {
        "encoder": 0.1,
        "shared_expert/all_layers": 1.4,
        "shared_expert/layer0": 0.9,
        "shared_expert/layer1": 1.9,
        "routed_experts/all_layers": 0.3,
        "routed_experts/layer0": 0.3,  # the mean of 0.2 and 0.4; the third has no conflict to measure
        "routed_experts/layer1": 0.3,
        "worst_routed_expert/all_layers": 0.4,
        "worst_routed_expert/layer0": 0.4,
        "worst_routed_expert/layer1": 0.4,
        "shared_expert_minus_routed_experts/all_layers": 0.9,
        "shared_expert_minus_routed_experts/layer0": 0.4,
        "shared_expert_minus_routed_experts/layer1": 1.4,
    }
    assert list(rows) == [*expected, "router/layer0"]
    row = rows.pop("router/layer0")
    assert (row["measured"], row["num_seeds"], row["interval"]) == (
        0.0,
        0,
        NO_NUMBER,
    ) and math.isnan(row["mean"])
    assert {name: pytest.approx(row["mean"]) for name, row in rows.items()} == expected
    row = rows["shared_expert_minus_routed_experts/layer0"]
    assert (row["low"], row["high"]) == (pytest.approx(0.3), pytest.approx(0.5)), (
        "seed by seed, of two seeds"
    )
    assert (row["env_step_from"], row["env_step_to"], row["interval"]) == (
        800.0,
        1000.0,
        OVER_SEEDS,
    )
    assert rows["encoder"]["measured"] == 1.0 and rows["encoder"]["seeds"] == "a b"
    assert rows["routed_experts/layer0"]["measured"] == 0.5, "three of six measurements"


def test_two_groups_are_compared_over_what_both_have_reached():
    dense = [
        run_of(name, {"gradient_conflict/max_encoder": [4.0, value, 9.0, 9.0]})
        for name, value in (("c", 1), ("d", 2))
    ]
    dense[1] = RunData(
        dense[1].path,
        FIELDS,
        {t: Series(s.env_step[:2], s.value[:2]) for t, s in dense[1].scalars.items()},
        {},
    )
    moe = [run_of("a", conflict()), run_of("b", conflict(0.2))]
    rows = [
        row
        for row in conflict_rows(study_of(moe=moe, dense=dense))
        if row["component"] == "encoder"
    ]
    assert [(row["group"], row["env_step_to"]) for row in rows] == [
        ("moe", 1000.0),
        ("dense", 500.0),
        ("moe − dense", 500.0),
    ]
    assert rows[2]["mean"] == pytest.approx(9.0 - 1.5), (
        "up to 500 env steps the runs with experts were at 9"
    )
    low, high = bootstrap_difference(np.array([9.0, 9.0]), np.array([1.0, 2.0]))
    assert (rows[2]["low"], rows[2]["high"], rows[2]["interval"]) == (low, high, OVER_BOTH_GROUPS)
    compared = {
        row["component"]
        for row in conflict_rows(study_of(moe=moe, dense=dense))
        if " − " in row["group"]
    }
    assert compared == {"encoder"}, "a dense network has no experts to compare with"
    [*_, last] = conflict_rows(study_of(moe=moe, dense=dense[:1]))
    assert last["interval"] == NOT_ENOUGH_SEEDS and math.isnan(last["low"])
    three = conflict_rows(study_of(moe=moe[:1], dense=dense[:1], other=moe[1:]))
    assert not [row for row in three if " − " in row["group"]], (
        "which of three pairs is not guessed"
    )


def test_a_seed_that_has_only_begun_takes_nothing_from_the_others():
    tags = {
        **conflict(),
        "moe_task/immediate/selection_entropy/Pong": [2.0, 2.0, 1.0, 1.0],
    }
    done = [run_of(name, tags) for name in "ab"]
    begun = RunData(
        Path("c"), FIELDS, {"learn/loss": Series(np.array([10.0]), np.array([1.0]))}, {}
    )
    with_it, without = study_of(moe=[*done, begun]), study_of(moe=done)
    assert [*map(repr, conflict_rows(with_it))] == [*map(repr, conflict_rows(without))]
    assert [*map(repr, expert_rows(with_it))] == [*map(repr, expert_rows(without))] != []
    early = RunData(
        Path("d"),
        FIELDS,
        {tag: Series(s.env_step[:1], s.value[:1]) for tag, s in done[0].scalars.items()},
        {},
    )
    told = "moe: tables and matrices of gradient conflict end at 100 env steps, where d ends; b has 1,000"
    assert told in notes(moe=[*done, early]) and told not in notes(moe=done)


def test_expert_selection_of_the_first_and_the_last_fifth():
    def tags(last: float) -> dict[str, list[float]]:
        return {
            "moe_task/short/selection_entropy/Pong": [2.0, 9.0, last, last],
            "moe_task/short/selection_entropy/Boxing": [1.0, 9.0, 0.5, 0.7],
            "moe_task/short/selection_entropy/Boxing/layer0": [7.0, 7.0, 7.0, 7.0],
            "moe_divergence/short/avg_jensen_shannon": [math.nan, math.nan, 0.1, 0.3],
            "moe_load/short/dead_experts": [0.0, 0.0, 1.0, 2.0],
        }

    study = study_of(moe=[run_of("a", tags(1.0)), run_of("b", tags(1.2))], dense=[run_of("c", {})])
    rows = {(row["metric"], row["game"]): row for row in expert_rows(study)}
    assert all(set(row) == set(EXPERT_COLUMNS) and row["group"] == "moe" for row in rows.values())
    entropy = "moe_task/short/selection_entropy"
    divergence = ("moe_divergence/short/avg_jensen_shannon", "")
    assert list(rows) == [
        (entropy, ""),
        (entropy, "Pong"),
        (entropy, "Boxing"),
        divergence,
        ("moe_load/short/dead_experts", ""),
    ]
    row = rows[divergence]
    assert (row["last_fifth"], row["num_seeds"], row["interval"]) == (
        pytest.approx(0.2),
        2,
        NO_NUMBER,
    )
    assert math.isnan(row["first_fifth"]) and math.isnan(row["change"]), (
        "nothing to compare with is no change of 0"
    )
    row = rows[entropy, "Pong"]
    found = [
        row[name] for name in ("first_fifth", "last_fifth", "change", "change_low", "change_high")
    ]
    assert found == pytest.approx([2.0, 1.1, -0.9, -1.0, -0.8])
    assert rows[entropy, ""]["last_fifth"] == pytest.approx((1.1 + 0.6) / 2), "the mean over games"
    assert rows["moe_load/short/dead_experts", ""]["change"] == 1.5
    assert expert_rows(study_of(moe=[run_of("a", tags(1.0))]))[0]["interval"] == ONE_SEED


def notes(**groups: Sequence[RunData]) -> list[str]:
    return list(analysis_notes(study_of(**groups).groups))


def test_what_a_group_cannot_have_is_said_once_and_why():
    moe = run_of(
        "a",
        {
            "moe_load/short/dead_experts": [0.0] * 4,
            **conflict(),
            "plasticity/dormant_ratio/all": [0.0] * 4,
        },
    )
    dense = [
        run_of(
            name, {"plasticity/x": [0.0] * 4}, fields=FIELDS | {"model.moe.enabled": False, **more}
        )
        for name, more in (("d", {}), ("e", {"policy.gradient_conflict_interval": 0}))
    ]
    assert notes(moe=[moe], dense=dense[:1], off=dense[1:])[:3] == [
        "no gradient conflict of d: none logged (gradient_conflict/…)",
        "no gradient conflict of off: switched off (policy.gradient_conflict_interval is 0)",
        "moe: gradient conflict left out where it was no number, because fewer than two games had a gradient there: "
        "expert 10 of 24",
    ]
    [*_, last] = notes(moe=[moe], dense=dense[:1], off=dense[1:])
    assert (
        last
        == "no expert selection of dense, off: the feed-forward is a dense MLP (model.moe.enabled is false)"
    )
    shared = run_of(
        "s",
        {},
        fields=FIELDS
        | {"model.moe.enabled": True, "model.moe.num_experts": 0, "env.games": ["Pong"]},
    )
    assert notes(shared=[shared]) == [
        "no gradient conflict of shared: one game has no other to be in conflict with",
        "no expert selection of shared: there are no routed experts (model.moe.num_experts is 0)",
    ]
    quiet = run_of(
        "q", {}, fields=FIELDS | {"train.moe_log_interval": 0, "model.moe.enabled": True}
    )
    assert notes(quiet=[quiet]) == [
        "no expert selection of quiet: switched off (train.moe_log_interval is 0)"
    ]
    assert notes(old=[run_of("o", {"learn/loss": [1.0] * 4})]) == [], "old runs are not blamed"
    some = notes(moe=[moe, run_of("b", {"plasticity/x": [0.0] * 4})])
    assert "no expert selection of b: none logged (moe_…)" in some
    off = run_of(
        "c", {"plasticity/x": [0.0] * 4}, fields=FIELDS | {"policy.gradient_conflict_interval": 0}
    )
    assert "no gradient conflict of c: none logged (gradient_conflict/…)" in notes(
        moe=[moe, off]
    ), "one seed is no group"
