"""Expert selection in the logs: divergences equal scipy's, every tag reaches the event file with
the right number.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lzero.analysis import expert_log
from lzero.analysis.expert_log import (
    js_divergence_matrix,
    log_expert_selection,
    total_variation_matrix,
    wasserstein_matrix,
)
from lzero.analysis.expert_statistics import ExpertSelection
from lzero.logging import RunLogger, read_metrics

TASKS = ("Pong", "Boxing", "Alien")
WINDOWS = ("immediate", "short", "medium", "long")
LAYERS = (0, 2)
NUM_EXPERTS = 4
MATRICES = ("jensen_shannon", "total_variation", "wasserstein")


def some_distributions(rows: int = 6, experts: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(experts, 0.3), rows) * (rng.random((rows, experts)) < 0.7)
    p[0] = np.eye(experts)[0]
    p[1] = np.eye(experts)[-1]
    p[2, 3] += 1e-9
    return p / p.sum(axis=1, keepdims=True)


REFERENCES = {
    js_divergence_matrix: lambda p, q: jensenshannon(p, q) ** 2,
    total_variation_matrix: lambda p, q: max(abs((p - q)[list(s)].sum()) for s in subsets(len(p))),
    wasserstein_matrix: lambda p, q: wasserstein_distance(range(len(p)), range(len(q)), p, q),
}


def subsets(size: int) -> itertools.chain:
    return itertools.chain.from_iterable(
        itertools.combinations(range(size), n) for n in range(size + 1)
    )


@pytest.mark.parametrize("function", REFERENCES, ids=lambda function: function.__name__)
def test_divergences_equal_their_references(function):
    p = some_distributions()
    matrix = function(p)
    assert matrix.shape == (6, 6)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 0.0)
    assert (matrix >= 0).all()
    for i, j in itertools.product(range(6), repeat=2):
        assert matrix[i, j] == pytest.approx(REFERENCES[function](p[i], p[j]), abs=1e-12)
    assert matrix[0, 1] == pytest.approx(
        {"js": math.log(2), "to": 1.0, "wa": 7.0}[function.__name__[:2]]
    )
    np.testing.assert_array_equal(function(np.stack([p, p[::-1]]))[1], matrix[::-1, ::-1])


@pytest.mark.parametrize("function", REFERENCES, ids=lambda function: function.__name__)
@pytest.mark.parametrize("experts", [1, 8])
def test_a_task_without_data_is_nan_everywhere(function, experts):
    p = some_distributions(experts=8)[:, :experts]
    p = p / p.sum(axis=1, keepdims=True) if experts > 1 else np.ones((6, 1))
    whole = function(p)
    p[4] = np.nan
    matrix = function(p)
    others = np.arange(6) != 4
    assert np.isnan(matrix[4]).all() and np.isnan(matrix[:, 4]).all()
    np.testing.assert_array_equal(matrix[np.ix_(others, others)], whole[np.ix_(others, others)])


def test_only_wasserstein_depends_on_the_experts_numbers():
    p = some_distributions()
    renumbered = p[:, np.random.default_rng(1).permutation(8)]
    for function in (js_divergence_matrix, total_variation_matrix):
        np.testing.assert_allclose(function(renumbered), function(p), atol=1e-12)
    assert np.abs(wasserstein_matrix(renumbered) - wasserstein_matrix(p)).max() > 0.5


def make_selection(num_tasks: int = len(TASKS), seed: int = 0) -> dict[int, ExpertSelection]:
    """Selections of two layers; the last expert of layer 0 is dead in the first window, the last
    task has no data there.
    """
    rng = np.random.default_rng(seed)
    selection = {}
    for layer in LAYERS:
        counts = rng.integers(1, 100, (len(WINDOWS), num_tasks, NUM_EXPERTS))
        counts[0, -1] = 0
        counts[0, :, -1] *= layer > 0
        data_points = rng.integers(1, 50, (len(WINDOWS), num_tasks)) * counts.any(axis=-1)
        selection[layer] = ExpertSelection(WINDOWS, counts, data_points)
    return selection


def expected_tags(games: Sequence[str]) -> set[str]:
    tags = set()
    for window in WINDOWS:
        for game in games:
            for name in (
                *("selection_entropy", "selection_entropy_normalised", "selection_variance"),
                "effective_experts",
            ):
                tags.add(f"moe_task/{window}/{name}/{game}")
        for name in (
            *("usage_entropy", "usage_entropy_normalised"),
            *("most_used_expert", "least_used_expert", "dead_experts", "load_imbalance"),
            *("mutual_information", "mutual_information_normalised"),
        ):
            tags.add(f"moe_load/{window}/{name}")
        for quantity in MATRICES:
            tags |= {f"moe_divergence/{window}/{which}_{quantity}" for which in ("avg", "max")}
    return tags


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> tuple[EventAccumulator, dict[str, float | None], dict[str, list]]:
    """Event file, scalars of the JSONL file and its arrays after one look at
    :func:`make_selection`.
    """
    directory = tmp_path_factory.mktemp("run")
    with RunLogger(directory, is_main=True) as logger:
        log_expert_selection(logger, make_selection(), TASKS, 160, 40)
    rows = read_metrics(directory / "metrics.jsonl")
    assert all((row["env_step"], row["train_iter"]) == (160, 40) for row in rows)
    metrics = {tag: value for row in rows for tag, value in row["metrics"].items()}
    arrays = {tag: value for row in rows for tag, value in row.get("arrays", {}).items()}
    return EventAccumulator(str(directory / "tb")).Reload(), metrics, arrays


def test_every_tag_is_in_the_event_file(logged):
    events, metrics, arrays = logged
    exact = expected_tags(TASKS)
    tags = exact | {f"{tag}/layer{layer}" for tag in exact for layer in LAYERS}
    assert set(metrics) == tags
    assert set(events.Tags()["scalars"]) == {f"50_{tag}" for tag in tags}
    for tag in tags:
        [event] = events.Scalars(f"50_{tag}")
        assert event.step == 160
        assert (
            math.isnan(event.value)
            if metrics[tag] is None
            else event.value == pytest.approx(metrics[tag], rel=1e-6)
        )
    pictures = {f"52_task_similarity/{window}_{name}" for window in WINDOWS for name in MATRICES}
    pictures |= {f"51_expert_selection/{window}" for window in WINDOWS}
    assert set(events.Tags()["images"]) == pictures
    names = {f"task_similarity/{window}_{name}" for window in WINDOWS for name in MATRICES}
    names |= {f"expert_selection/{window}" for window in WINDOWS}
    updates = {f"expert_selection_updates/{window}" for window in WINDOWS}
    assert set(arrays) == updates | {f"{name}/layer{layer}" for name in names for layer in LAYERS}


def test_numbers_are_those_of_a_naive_loop(logged):
    _, metrics, arrays = logged
    selection = make_selection()
    for (place, window), layer in itertools.product(enumerate(WINDOWS), LAYERS):
        counts = selection[layer].counts[place]
        rows = {task: row / row.sum() for task, row in enumerate(counts) if row.any()}
        expected = {}
        updates = [each.data_points[place] for each in selection.values()]
        assert arrays[f"expert_selection_updates/{window}"] == np.max(updates, axis=0).tolist()
        for task, game in enumerate(TASKS):
            tag = f"moe_task/{window}/{{}}/{game}".format
            row = rows.get(task)
            entropy = None if row is None else -sum(p * math.log(p) for p in row if p)
            expected[tag("selection_entropy")] = entropy
            expected[tag("selection_entropy_normalised")] = (
                None if row is None else entropy / math.log(NUM_EXPERTS)
            )
            expected[tag("selection_variance")] = (
                None if row is None else ((row - 0.25) ** 2).mean()
            )
            expected[tag("effective_experts")] = None if row is None else math.exp(entropy)
        usage, load = np.mean(list(rows.values()), axis=0), counts.sum(axis=0)
        usage_entropy = -sum(p * math.log(p) for p in usage if p)
        values = (usage_entropy, usage_entropy / math.log(NUM_EXPERTS))
        values += (load.argmax(), load.argmin(), sum(load == 0), load.max() / load.mean())
        within = [-sum(p * math.log(p) for p in row if p) for row in rows.values()]
        information = usage_entropy - np.mean(within)
        for row, of_task in ((rows[task], counts[task]) for task in rows):  # what chance adds to it
            posterior = row / np.maximum(sum(rows.values()), 1e-300)  # a dead expert: 0 / 0
            chance = (row > 0).sum() - 1 - (posterior * (1 - row)).sum()
            information -= chance / len(rows) / of_task.sum() / 2
        values += (information, information / min(math.log(len(rows)), math.log(NUM_EXPERTS)))
        names = ("usage_entropy", "usage_entropy_normalised")
        names += ("most_used_expert", "least_used_expert", "dead_experts", "load_imbalance")
        names += ("mutual_information", "mutual_information_normalised")
        expected |= {
            f"moe_load/{window}/{name}": value for name, value in zip(names, values, strict=True)
        }
        for name, function in zip(MATRICES, REFERENCES, strict=True):
            pairs = [
                REFERENCES[function](rows[i], rows[j]) for i, j in itertools.combinations(rows, 2)
            ]
            expected[f"moe_divergence/{window}/avg_{name}"] = np.mean(pairs)
            expected[f"moe_divergence/{window}/max_{name}"] = max(pairs)
            matrix = np.array(arrays[f"task_similarity/{window}_{name}/layer{layer}"], dtype=float)
            assert np.nanmax(matrix) == pytest.approx(max(pairs))
            assert np.isnan(matrix).any() == (window == "immediate")
        for tag, value in expected.items():
            assert metrics[f"{tag}/layer{layer}"] == (
                None if value is None else pytest.approx(value)
            ), tag
        table = np.array(arrays[f"expert_selection/{window}/layer{layer}"], dtype=float)
        np.testing.assert_allclose(
            table, [rows.get(task, np.full(NUM_EXPERTS, np.nan)) for task in range(len(TASKS))]
        )
    assert metrics["moe_load/immediate/dead_experts/layer0"] == 1


def test_the_exact_tag_is_the_mean_over_layers(logged):
    _, metrics, _ = logged
    for tag in expected_tags(TASKS):
        of_layers = [metrics[f"{tag}/layer{layer}"] for layer in LAYERS]
        if "used_expert" in tag:  # numbers of experts have no mean: the layers' counts are pooled
            window = WINDOWS.index(tag.split("/")[1])
            load = sum(layer.counts[window].sum(axis=0) for layer in make_selection().values())
            assert metrics[tag] == (load.argmax() if "most_used" in tag else load.argmin())
        elif None in of_layers:
            assert metrics[tag] is None
        else:
            assert metrics[tag] == pytest.approx(np.mean(of_layers))


def test_pictures_show_the_matrices(monkeypatch, tmp_path):
    drawn = {}

    def heatmap_image(panels, rows, columns, *, title, limits, **_):
        drawn[title] = (panels, tuple(rows), tuple(columns), limits)
        return np.zeros((3, 2, 2), dtype=np.uint8)

    monkeypatch.setattr(expert_log, "heatmap_image", heatmap_image)
    selection = make_selection()
    with RunLogger(tmp_path, is_main=True) as logger:
        log_expert_selection(logger, selection, TASKS, 160, 40)
    assert len(drawn) == 16
    panels, rows, columns, limits = drawn["expert selection, short window"]
    assert (rows, columns, limits) == (TASKS, ("0", "1", "2", "3"), (0.0, 1.0))
    assert list(panels) == ["layer 0", "layer 2"]
    np.testing.assert_array_equal(panels["layer 2"], selection[2].frequencies[1])
    panels, rows, columns, limits = drawn["wasserstein between tasks, long window"]
    assert (rows, columns, limits) == (TASKS, TASKS, (0.0, 3.0))
    np.testing.assert_array_equal(
        panels["layer 0"], wasserstein_matrix(selection[0].frequencies)[3]
    )
    assert drawn["jensen shannon between tasks, long window"][-1] == (0.0, math.log(2))


def test_what_was_logged_before_tells_how_far_each_task_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(
        expert_log, "heatmap_image", lambda *_, **__: np.zeros((3, 2, 2), dtype=np.uint8)
    )
    before, now = make_selection(seed=1), make_selection()
    with RunLogger(tmp_path, is_main=True) as logger:
        log_expert_selection(logger, now, TASKS, 160, 40, before=before)
        with pytest.raises(ValueError, match=r"before has layers \[0\]: allowed are \[0, 2\]"):
            log_expert_selection(logger, now, TASKS, 160, 40, before={0: before[0]})
    row = read_metrics(tmp_path / "metrics.jsonl")[0]["metrics"]
    for (place, window), task in itertools.product(enumerate(WINDOWS), range(len(TASKS))):
        tag, of_layers = f"moe_task/{window}/selection_shift/{TASKS[task]}", []
        for layer in LAYERS:
            p, q = (each[layer].frequencies[place, task] for each in (before, now))
            is_known = not np.isnan(p + q).any()
            of_layers.append(REFERENCES[total_variation_matrix](p, q) if is_known else None)
            expected = of_layers[-1]
            assert row[f"{tag}/layer{layer}"] == (
                None if expected is None else pytest.approx(expected)
            )
        assert row[tag] == (None if None in of_layers else pytest.approx(np.mean(of_layers)))


@pytest.mark.parametrize("empty", [False, True])
def test_one_task_has_nobody_to_be_compared_with(tmp_path, monkeypatch, empty):
    monkeypatch.setattr(
        expert_log, "heatmap_image", lambda *_, **__: np.zeros((3, 2, 2), dtype=np.uint8)
    )
    counts = np.full((len(WINDOWS), 1, 1), 0 if empty else 7)
    with RunLogger(tmp_path, is_main=True) as logger:
        log_expert_selection(
            logger, {0: ExpertSelection(WINDOWS, counts, counts[..., 0])}, ("Pong",), 1, 1
        )
    metrics = {
        tag: value
        for row in read_metrics(tmp_path / "metrics.jsonl")
        for tag, value in row["metrics"].items()
    }
    assert expected_tags(("Pong",)) <= set(metrics)
    assert all(
        value is None
        for tag, value in metrics.items()
        if tag.startswith("moe_divergence/") or "mutual_information" in tag
    )
    assert (
        metrics["moe_load/long/dead_experts"]
        == metrics["moe_load/long/usage_entropy"]
        == (None if empty else 0)
    )
    assert metrics["moe_load/long/load_imbalance"] == (None if empty else 1)
    assert metrics["moe_load/long/most_used_expert"] == (None if empty else 0)


@pytest.mark.parametrize("name", ["mutual_information", "mutual_information_normalised"])
def test_experts_that_tell_nothing_of_tasks_have_no_mutual_information_on_average(name):
    """Windows of 15 tokens that all go to one expert, drawn without regard to the task: with each
    window as one draw the mean over updates is 0, with every token as one it is not.
    """
    rng = np.random.default_rng(0)
    per_update, updates = (6, 9, 12), 2000
    counts = np.empty((updates, 3, NUM_EXPERTS), np.int64)
    for task, windows in enumerate(per_update):
        counts[:, task] = 15 * rng.multinomial(10 * windows, [0.4, 0.3, 0.2, 0.1], updates)
    names = tuple(map(str, range(updates)))
    selection = ExpertSelection(names, counts, np.full((updates, 3), 10))
    is_chance = {}
    for draws in (per_update, None):
        values = expert_log._Selection.of({0: selection}).over_tasks(draws)[name]
        is_chance[draws] = abs(values.mean()) < 4 * values.std() / math.sqrt(updates)
    assert is_chance == {per_update: True, None: False}


@pytest.mark.parametrize("draws", [(1, 2), (1, 2, 3, 4)])
def test_draws_are_those_of_every_task(tmp_path, draws):
    with (
        RunLogger(tmp_path, is_main=True) as logger,
        pytest.raises(ValueError, match=r"draws_per_update"),
    ):
        log_expert_selection(logger, make_selection(), TASKS, 1, 1, draws_per_update=draws)


def test_other_ranks_and_dense_models_draw_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(expert_log, "heatmap_image", lambda *_, **__: pytest.fail("drawn"))
    with RunLogger(tmp_path, is_main=True) as logger:
        log_expert_selection(logger, make_selection(), TASKS, 1, 1, is_main=False)
        log_expert_selection(logger, {}, TASKS, 1, 1)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_name_per_task_is_needed(tmp_path):
    with (
        RunLogger(tmp_path, is_main=True) as logger,
        pytest.raises(ValueError, match="2 names for 3 tasks"),
    ):
        log_expert_selection(logger, make_selection(), TASKS[:2], 1, 1)
