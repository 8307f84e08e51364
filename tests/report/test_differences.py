"""Two experiments against each other: which seeds are paired, what is compared, and what is said of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lzero.logging import run_logger
from lzero.report.command import TABLES, main
from lzero.report.difference_tables import (
    DIFFERENCE_PICTURES,
    conflict_difference_table,
    expert_difference_table,
    verdict_in_words,
)
from lzero.report.differences import (
    CONFLICT_FILE,
    EXPERT_FILE,
    conflict_differences,
    difference_notes,
    expert_differences,
)
from lzero.report.last_part import mean_or_nan
from lzero.report.noise import pair_rows, share_rows
from lzero.report.notes import analysis_notes
from lzero.report.run_data import Group, RunData, Series, read_run
from lzero.report.student import PAIRED, TOO_FEW_SEEDS, UNPAIRED
from lzero.report.study import Study, build_study
from lzero.report.windows import shown_window
from tests.report.synthetic_runs import write_run

FIELDS = {"exp_name": "x", "env.domain": "nowhere:NOTHING", "env.games": ["Pong", "Boxing"]}
STEPS = np.array([100.0, 500.0, 900.0, 1000.0])  # the first and the last two are in a fifth
Values = Mapping[int, float]
"""By seed."""


def run_of(name: str, tags: Mapping[str, Sequence[float]]) -> RunData:
    scalars = {tag: Series(STEPS, np.array(values, float)) for tag, values in tags.items()}
    return RunData(Path(name), FIELDS, scalars, {})


def group_of(label: str, **by_tag: Values) -> Group:
    """Seeds whose conflict was always the same, by tag and seed."""
    runs: dict[int, dict[str, list[float]]] = {}
    for tag, values in by_tag.items():
        for seed, value in values.items():
            runs.setdefault(seed, {})[f"gradient_conflict/{tag}"] = [value] * len(STEPS)
    made = tuple(run_of(f"{label}_s{seed}", runs[seed]) for seed in sorted(runs))
    return Group(label, made, FIELDS)


def study_of(*groups: Group, margin: float | None = None) -> Study:
    return Study(tuple(groups), (), (), {}, (), margin=margin)


def by_place(study: Study) -> dict[tuple[str, str], dict[str, object]]:
    rows = conflict_differences(study)
    assert all(set(row) == set(TABLES[CONFLICT_FILE][0]) for row in rows)
    return {(row["measure"], row["component"]): row for row in rows}


OURS = {0: 0.1, 1: 0.5, 2: 0.32, 3: 0.2, 4: 0.9}
THEIRS = {0: 0.15, 1: 0.53, 2: 0.4, 7: -0.9}


def test_seeds_that_both_have_are_paired():
    ours = group_of("moe", max_encoder=OURS, max_router=OURS | {2: math.nan}, max_x=OURS)
    study = study_of(ours, group_of("dense", max_encoder=THEIRS, max_router=THEIRS))
    rows = by_place(study)
    assert list(rows) == [("max", "encoder"), ("max", "router")], "what one of them lacks is not"
    row = rows["max", "encoder"]
    test = stats.ttest_rel([0.1, 0.5, 0.32], [0.15, 0.53, 0.4])
    assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert (row["difference"], row["p_value"]) == pytest.approx((-0.16 / 3, test.pvalue))
    assert (row["seeds"], row["num_first"], row["interval"]) == ("0 1 2", 3, PAIRED)
    row = rows["max", "router"]
    assert (row["seeds"], row["interval"], row["verdict"]) == ("0 1", TOO_FEW_SEEDS, "cannot tell")
    assert row["difference"] == pytest.approx(-0.04) and math.isnan(row["p_holm"])
    notes = list(difference_notes(study))
    assert "moe − dense is compared without moe_s3, moe_s4, dense_s7, whose seeds" in notes[0]
    assert "1 comparisons, 1 of them headline" in notes[1]


def test_what_seeds_share_cancels_out():
    """Between seeds conflict differs by 1, between experiments by 0.02: unpaired nothing is seen."""
    luck = dict(enumerate((0.0, 1.0, -0.5, 0.3, 0.8)))
    shifts = (0.02, 0.021, 0.018, 0.019, 0.022)
    shifted = {seed: value + shifts[seed] for seed, value in luck.items()}
    first = group_of("a", avg_encoder=shifted)
    paired = study_of(first, group_of("b", avg_encoder=luck), margin=0.05)
    row = by_place(paired)["avg", "encoder"]
    assert row["verdict"] == "more, within the margin" and row["margin"] == 0.05
    assert verdict_in_words(row) == "a has more, within ±0.05" and row["detectable"] < 0.01
    apart = study_of(first, group_of("b", avg_encoder={seed + 10: luck[seed] for seed in luck}))
    row = by_place(apart)["avg", "encoder"]
    test = stats.ttest_ind([*shifted.values()], [*luck.values()], equal_var=False)
    assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert (row["verdict"], row["interval"]) == ("cannot tell", UNPAIRED) and row["detectable"] > 1
    assert len(row["seeds"].split()) == 10 and math.isnan(row["margin"])
    [why, _] = difference_notes(apart)
    assert "is not compared seed by seed: fewer than two seeds in common" in why


def test_margins_are_of_cosines_and_conditions_are_not_tested():
    rng = np.random.default_rng(0)
    names = ("max", "rate", "null", "pairs", "reliability")

    def group(label: str) -> Group:
        values = {f"{name}_encoder": dict(enumerate(rng.normal(0, 0.001, 5))) for name in names}
        return group_of(label, **values)

    rows = by_place(study_of(group("a"), group("b"), margin=0.05))
    families = {measure: row["family"] for (measure, _), row in rows.items()}
    conditions = {"null": "condition", "pairs": "condition"}
    assert families == {"max": "headline", "rate": "other", "reliability": "other"} | conditions
    for (measure, _), row in rows.items():
        is_cosine = measure in ("max", "reliability")
        assert (row["margin"] == 0.05) == is_cosine, measure
        assert (row["verdict"] == "equivalent") == is_cosine, measure
        assert math.isnan(row["p_holm"]) == (measure in conditions)
    assert verdict_in_words(rows["max", "encoder"]) == "equivalent within ±0.05"
    assert rows["max", "encoder"]["p_holm"] == rows["max", "encoder"]["p_value"], "alone"
    both = [rows[measure, "encoder"] for measure in ("rate", "reliability")]
    smaller, larger = sorted(both, key=lambda row: row["p_value"])
    assert smaller["p_holm"] == pytest.approx(min(1, 2 * smaller["p_value"]))
    assert larger["p_holm"] == pytest.approx(max(smaller["p_holm"], larger["p_value"]))


def test_without_two_experiments_nothing_is_compared():
    one, other = group_of("a", max_encoder=OURS), group_of("b", max_encoder=THEIRS)
    for study in (study_of(one), study_of(one, other, replace(other, label="c"))):
        assert conflict_differences(study) == expert_differences(study) == []
        assert list(difference_notes(study)) == [] and conflict_difference_table(study) == []
    silent = Group("s", (run_of("s_s0", {"learn/loss": [1.0] * 4}),), FIELDS)
    assert conflict_differences(study_of(one, silent)) == []


def selecting(label: str, entropies: Mapping[int, tuple[float, float]], updates: int) -> Group:
    """Seeds whose entropy in both windows goes from the one to the other."""
    runs = []
    for seed, (first, last) in entropies.items():
        tags = {}
        for window in ("immediate", "short"):
            for game in ("Pong", "Boxing"):
                tag = f"moe_task/{window}/selection_entropy/{game}"
                tags[tag] = [first, 9.0, last, last]
        run = run_of(f"{label}_s{seed}", tags)
        done = {int(step): round(step / 1000 * updates) for step in range(0, 1001, 100)}
        runs.append(replace(run, updates=done))
    return Group(label, tuple(runs), FIELDS)


def test_changes_of_the_expert_selection_are_compared():
    one = {0: (1.0, 0.5), 1: (1.2, 0.9), 2: (0.9, 0.6)}
    other = {0: (1.1, 1.0), 1: (1.0, 1.1), 2: (1.3, 1.1)}
    study = study_of(selecting("a", one, 1200), selecting("b", other, 1200), margin=0.05)
    rows = expert_differences(study)
    assert all(set(row) == set(TABLES[EXPERT_FILE][0]) for row in rows)
    assert len(rows) == 2 * 3 * 2, "windows, both games and their mean, end and change"
    found = {(row["metric"], row["game"], row["part"]): row for row in rows}
    entropy = "moe_task/immediate/selection_entropy"
    change, end = found[entropy, "", "change"], found[entropy, "Pong", "last_fifth"]
    reference = stats.ttest_rel([-0.5, -0.3, -0.3], [-0.1, 0.1, -0.2])
    assert change["p_value"] == pytest.approx(reference.pvalue)
    assert change["difference"] == pytest.approx(-1.1 / 3 + 0.2 / 3)
    reference = stats.ttest_rel([0.5, 0.9, 0.6], [1.0, 1.1, 1.1])
    assert end["p_value"] == pytest.approx(reference.pvalue) and math.isnan(end["margin"])
    headlines = [place for place, row in found.items() if row["family"] == "headline"]
    assert headlines == [(entropy, "", "last_fifth"), (entropy, "", "change")]
    html = str(expert_difference_table(study))
    assert "entropy of selection [nats], last 100 updates" in html and "a − b" in html


@pytest.mark.parametrize(
    "updates, said, window",
    [
        (1200, "(240 updates): the first and the last fifth share data", "immediate"),
        (2000, "(400 updates): numbers of the last fifth also count what was before", "immediate"),
        (5000, "", "short"),
        (0, "", "short"),
    ],
)
def test_windows_longer_than_what_they_describe_are_named(updates, said, window):
    group = selecting("a", {0: (1.0, 0.5)}, updates)
    notes = [note for note in analysis_notes([group]) if "window" in note]
    assert len(notes) == bool(said) and shown_window(group.runs) == window
    for note in notes:
        assert note.startswith("a: the short window") and "(1,000 updates)" in note and said in note


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Three seeds with a shared expert in each of two widths, two layers."""
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        # TensorBoard is slow and not what is tested
        patch.setattr(run_logger, "make_sinks", lambda *_: {})
        for seed in (0, 1, 2):
            for name, model in (("small", {}), ("wide", {"embed_dim": 128})):
                path = folder / f"{name}_s{seed}"
                shift = 10 * len(model)
                runs.append(write_run(path, seed=seed + shift, model=model, experts=2, analyses=5))
    return build_study(runs, margin=0.05)


def test_conflict_without_noise_and_its_shares_are_compared(study):
    rows = by_place(study)
    pairs, shares = list(pair_rows(study)), list(share_rows(study))
    for group, name in zip(study.groups, ("first_mean", "second_mean"), strict=True):
        denoised, carried = [], {"shared_expert": [], "expert": [], "size": []}
        for run in group.runs:
            cosines = [
                row["denoised"]
                for row in pairs
                if (row["run"], row["component"]) == (run.name, "transformer")
            ]
            denoised.append(-mean_or_nan(cosines))
            of_run = [row for row in shares if (row["run"], row["layer"]) == (run.name, "layer1")]
            for kind in ("shared_expert", "expert"):
                parts = [row for row in of_run if row["part"].startswith(kind)]
                carried[kind].append(sum(row["conflict_share"] for row in parts))
                if kind == "expert":
                    carried["size"].append(sum(row["norm_share"] for row in parts))
        row = rows["denoised", "transformer"]
        assert row[name] == pytest.approx(np.mean(denoised)) and row["family"] == "headline"
        row = rows["conflict_share", "shared_expert/layer1"]
        assert row[name] == pytest.approx(np.mean(carried["shared_expert"]))
        assert math.isnan(row["margin"]) and row["family"] == "other"
        row = rows["conflict_share", "routed_experts/layer1"]
        assert row[name] == pytest.approx(np.mean(carried["expert"]))
        excess = np.mean(np.array(carried["expert"]) / carried["size"])
        assert rows["excess", "routed_experts/layer1"][name] == pytest.approx(excess)
    layers = [rows["denoised", f"router/layer{layer}"]["difference"] for layer in (0, 1)]
    assert rows["denoised", "router/all_layers"]["difference"] == pytest.approx(np.mean(layers))
    assert rows["denoised", "router/layer0"]["family"] == "other"
    assert ("pooled_reliability", "encoder") in rows and ("reliability", "encoder") in rows


def test_the_page_has_verdicts_in_words_and_a_picture(study):
    html = str(conflict_difference_table(study))
    assert "small − wide" in html and "Stated margin of equivalence: 0.05" in html
    assert "mean conflict without noise" in html and "router/all_layers" in html
    assert "router/layer0" not in html and html.count("cannot tell") > 3
    assert PAIRED in html
    [picture] = DIFFERENCE_PICTURES
    assert picture.draw(study).png.startswith(b"\x89PNG")
    [of_conflict, of_experts] = difference_notes(study)
    tested = [row for row in conflict_differences(study) if not math.isnan(row["p_holm"])]
    assert f"{len(tested)} comparisons" in of_conflict and CONFLICT_FILE in of_conflict
    assert (
        f"about {0.05 * len(tested):.2g} of the 95 % intervals exclude 0 by chance" in of_conflict
    )
    assert "expert selection of small − wide" in of_experts and EXPERT_FILE in of_experts


def test_updates_are_read_and_a_bad_margin_is_refused(study, tmp_path):
    run = read_run(study.groups[0].runs[0].path)
    assert run.updates_by(0) == 0 and run.updates_by(399) == 20 * 200
    assert run.updates_by(run.env_steps) == 20 * 1000
    with pytest.raises(SystemExit, match="margin=0.0: allowed are finite numbers above 0 up to 1"):
        main([run.name, "--margin", "0", "--out", str(tmp_path)])
