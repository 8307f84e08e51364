"""Which curves of an analysis stand in which panel."""

import math

import numpy as np
import pytest

from lzero.logging import run_logger
from lzero.report.curves import DRAWN_WINDOWS, divergence_tags, information_tags, load_tags
from lzero.report.figures import arrange
from lzero.report.panels import (
    average_panels,
    conflict_panels,
    entropy_panels,
    expert_legend,
    expert_panels,
    group_legend,
    number_panels,
    selection_panels,
    tag_panels,
    window_panels,
)
from lzero.report.pictures import PICTURES
from lzero.report.statistics import ONE_SEED, OVER_SEEDS
from lzero.report.study import Study, build_study
from tests.report.synthetic_runs import GAMES, write_run


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Two seeds with experts and two without, of two layers each."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        # TensorBoard is slow and not what is tested
        patch.setattr(run_logger, "make_sinks", lambda *_: {})
        runs = [write_run(folder / f"moe_s{seed}", seed=seed) for seed in (0, 1)]
        runs += [write_run(folder / f"dense_s{seed}", seed=seed + 5, experts=0) for seed in (0, 1)]
    return build_study(runs)


def test_conflict_has_a_row_for_each_kind_of_component(study):
    panels = conflict_panels(study, "max")
    rows: dict[int, list[str]] = {}
    for panel, (row, _) in zip(panels, arrange(panels), strict=True):
        rows.setdefault(row, []).append(panel.title)
    assert [*rows.values()] == [
        ["encoder (its output)", "encoder_parameters", "transformer"],
        ["before_moe/layer0 (feed-forward input)", "before_moe/layer1 (feed-forward input)"],
        ["moe_layer/layer0 (its parameters)", "moe_layer/layer1 (its parameters)"],
        ["router/layer0", "router/layer1"],
    ]
    for panel in panels:
        expected = ["moe"] if "router" in panel.title else ["moe", "dense"]
        assert [curve.group for curve in panel.curves] == expected
        assert {curve.interval for curve in panel.curves} == {OVER_SEEDS}
        assert {curve.metric for curve in panel.curves} == {
            f"gradient_conflict/max_{panel.title.split()[0]}"
        }
    [limits] = {panel.limits for panel in panels}
    ends = [
        end
        for panel in panels
        for curve in panel.curves
        for end in (curve.low.min(), curve.high.max())
    ]
    assert limits == (min(*ends, 0.0), max(ends)), "one scale for all"
    assert len(conflict_panels(study, "rate")) == len(average_panels(study)) == len(panels)
    assert group_legend(study, panels) == {"moe": "2 seeds", "dense": "2 seeds"}


def test_experts_are_compared_with_the_shared_one(study):
    panels = expert_panels(study)
    assert [(panel.title, panel.row) for panel in panels] == [
        ("moe, layer 0", "moe"),
        ("moe, layer 1", "moe"),
    ]
    for layer, panel in enumerate(panels):
        assert [curve.group for curve in panel.curves] == [
            "whole feed-forward",
            "shared expert",
            "routed experts, mean",
        ]
        routed = panel.curves[2]
        assert (
            routed.metric == f"gradient_conflict/max_routed_experts/layer{layer}"
            and len(routed.seeds) == 2
        )
        assert [curve.metric for curve in panel.faint] == [
            f"gradient_conflict/max_expert_{expert}/layer{layer}" for expert in range(3)
        ], "the fourth is used by one game: nothing to draw"
        assert {(len(curve.seeds), curve.interval) for curve in panel.faint} == {(1, ONE_SEED)}
        assert panel.faint[0].seeds == (study.groups[0].runs[0].name,)
    [limits] = {panel.limits for panel in panels}
    assert limits[0] <= min(curve.mean.min() for panel in panels for curve in panel.faint)
    assert expert_legend(study, panels) == dict.fromkeys(
        ("whole feed-forward", "shared expert", "routed experts, mean"), ""
    )
    assert expert_legend(study, [])["shared expert"] is None
    [picture] = [picture for picture in PICTURES if picture.name == "conflict_experts"]
    assert picture.draw(study).png.startswith(b"\x89PNG")


def test_the_mean_over_experts_is_that_of_their_numbers(study):
    run = study.groups[0].runs[0]
    single = [
        run.series(f"gradient_conflict/max_expert_{expert}/layer0").value for expert in range(3)
    ]
    other = study.groups[0].runs[1]
    second = [
        other.series(f"gradient_conflict/max_expert_{expert}/layer0").value for expert in range(3)
    ]
    curve = expert_panels(study)[0].curves[2]
    assert np.allclose(curve.mean, (np.mean(single, axis=0) + np.mean(second, axis=0)) / 2)


def test_expert_selection_has_a_row_for_each_window(study):
    panels = entropy_panels(study)
    assert [panel.title for panel in panels] == [
        f"{game}, {window}" for window in DRAWN_WINDOWS for game in GAMES
    ]
    assert arrange(panels) == [(row, game) for row in (0, 1) for game in range(3)]
    for panel in panels:
        assert panel.references == {"all 4 alike": math.log(4)} and panel.limits == (
            0.0,
            math.log(4),
        )
        [curve] = panel.curves
        assert (curve.group, curve.game) == ("moe", panel.title.split(",")[0])
        window = curve.metric.split("/")[1]
        tag = f"moe_task/{window}/selection_entropy/{curve.game}"
        assert np.allclose(
            curve.mean, np.mean([run.series(tag).value for run in study.groups[0].runs], axis=0)
        )
    assert group_legend(study, panels) == {"moe": "2 seeds", "dense": None}, (
        "dense has no experts, which is said elsewhere"
    )
    shifts = selection_panels(study, "selection_shift")
    assert [panel.title for panel in shifts] == [panel.title for panel in panels]
    assert {len(panel.curves[0].env_step) for panel in shifts} == {9}, "none at the first log"
    for panel in number_panels(study):
        assert panel.references == {"all 4": 4} and panel.limits == (1.0, 4)
    information = window_panels(study, information_tags)
    assert [panel.curves[0].metric for panel in information] == [
        f"moe_load/{window}/mutual_information" for window in DRAWN_WINDOWS
    ]
    for tags_of in (divergence_tags, load_tags):
        panels = window_panels(study, tags_of)
        assert arrange(panels) == [(row, number) for row in (0, 1) for number in range(3)]
        assert len({panel.title for panel in panels}) == 6
    divergences = window_panels(study, divergence_tags)
    assert {curve.metric for panel in divergences for curve in panel.curves} == {
        f"moe_divergence/{window}/avg_{name}"
        for window in DRAWN_WINDOWS
        for name in ("jensen_shannon", "total_variation", "wasserstein")
    }


def test_no_curve_is_a_mean_over_experts_that_have_only_their_number_in_common(study):
    assert not [curve.metric for curve in study.curves if "expert_" in curve.metric and len(curve.seeds) > 1
                and "shared_expert" not in curve.metric]  # fmt: skip
    assert not [curve for curve in study.curves if (curve.mean == 77.0).any()], (
        "a single layer's entropy"
    )


def test_modules_are_sorted_by_their_numbers_and_all_comes_first(study):
    titles = [
        panel.title for panel in tag_panels(study, "plasticity/dormant_ratio/", log_scale=False)
    ]
    assert titles == ["all", "encoder", "encoder/layer0", "mlp/layer0", "mlp/layer1", "moe/layer0/routed",
                      "moe/layer0/shared", "moe/layer1/routed", "moe/layer1/shared"]  # fmt: skip


def test_nothing_gives_no_panels(study):
    empty = Study(study.groups, (), (), {}, ())
    assert expert_panels(empty) == entropy_panels(empty) == conflict_panels(empty, "max") == []
    assert window_panels(empty, divergence_tags) == window_panels(empty, load_tags) == []
