"""Numbers of specialisation against closed forms, naive loops, simulation and enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import entr
from scipy.stats import chi2

from lzero.analysis import specialisation
from lzero.analysis.specialisation import (
    NullTest,
    assignment_shift,
    effective_number,
    match_experts,
    matching_null,
    mutual_information,
    router_null,
    shannon_entropy,
)


def naive_information(joint: np.ndarray) -> float:
    """Of a joint distribution ``(T, E)``."""
    total = 0.0
    for task, row in enumerate(joint):
        for expert, p in enumerate(row):
            if p > 0:
                total += p * math.log(p / (joint[task].sum() * joint[:, expert].sum()))
    return total


def test_entropy_equals_scipys():
    p = np.random.default_rng(0).dirichlet(np.ones(5), (3, 4))
    p[0, 0], p[1, 2] = np.eye(5)[2], np.nan
    np.testing.assert_allclose(shannon_entropy(p), entr(p).sum(axis=-1), rtol=1e-14)
    assert math.copysign(1.0, shannon_entropy(p)[0, 0]) == 1.0, "0, not -0"


def test_information_has_its_closed_forms():
    own = mutual_information(7 * np.eye(3, dtype=np.int64))
    assert own.plug_in == pytest.approx(math.log(3)) and own.normalised == pytest.approx(1.0)
    shared = mutual_information(np.array([[1, 2, 3], [10, 20, 30]]))
    assert shared.plug_in == pytest.approx(0.0, abs=1e-15) and shared.normalised == pytest.approx(
        0.0, abs=1e-14
    )
    two_of_four = mutual_information(np.array([[5, 5, 0, 0], [0, 0, 2, 2]]))
    assert two_of_four.largest == pytest.approx(math.log(2)), "two tasks can tell no more"
    assert two_of_four.normalised == pytest.approx(1.0)


def test_information_equals_a_naive_loop():
    counts = np.random.default_rng(0).integers(0, 9, (4, 3, 5))
    counts[1, 2] = 0  # a task without data
    counts[2, 1:] = 0  # one task alone
    for weights in ("tasks", "selections"):
        found = mutual_information(counts, weights=weights)
        for layer, table in enumerate(counts):
            rows = table[table.any(axis=1)]
            shares = rows / rows.sum(axis=1, keepdims=True)
            w = np.full(len(rows), 1 / len(rows)) if weights == "tasks" else rows.sum(axis=1)
            joint = (w / w.sum())[:, None] * shares
            expected = naive_information(joint) if len(rows) > 1 else math.nan
            assert found.plug_in[layer] == pytest.approx(expected, nan_ok=True)
            of_task = -sum(p * math.log(p) for p in w / w.sum())
            largest = min(of_task, math.log(5)) if len(rows) > 1 else math.nan
            assert found.largest[layer] == pytest.approx(largest, nan_ok=True)
    heavier = counts[0] * np.array([[1], [40], [3]])
    both = mutual_information(np.stack([counts[0], heavier]))
    assert both.plug_in[0] == pytest.approx(both.plug_in[1]), "a larger batch changes nothing"
    by_selections = mutual_information(np.stack([counts[0], heavier]), weights="selections")
    assert abs(np.diff(by_selections.plug_in)[0]) > 1e-3
    assert np.isnan(mutual_information(np.full((2, 1), 3)).normalised), "nothing to choose"


SHARES = {
    "alike": np.array([[0.4, 0.3, 0.2, 0.1]] * 3),
    "different": np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]]),
}
DRAWS = (60, 90, 200)


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("weights", ["tasks", "selections"])
def test_the_bias_is_that_of_a_simulation(kind, weights):
    rng, number = np.random.default_rng(1), 4000
    counts = np.stack(
        [rng.multinomial(n, p, size=number) for n, p in zip(DRAWS, SHARES[kind], strict=True)],
        axis=1,
    )
    true = mutual_information(SHARES[kind] * np.array(DRAWS)[:, None], weights=weights).plug_in
    found = mutual_information(counts, weights=weights)
    error = found.plug_in.std() / math.sqrt(number)
    assert found.plug_in.mean() - true > 8 * error, "uncorrected it is too large"
    tolerance = 4 * error + 0.1 * found.bias.mean()  # what is beyond second order
    assert found.corrected.mean() == pytest.approx(float(true), abs=tolerance)


def test_where_tasks_are_alike_the_bias_is_miller_and_madows():
    counts = np.random.default_rng(2).multinomial(5000, [0.4, 0.3, 0.2, 0.1], size=3)
    expected = (3 - 1) * (4 - 1) / (2 * 15_000)
    assert mutual_information(counts).bias == pytest.approx(expected, rel=0.01)


def test_tokens_of_a_window_may_count_as_one_draw():
    windows = np.random.default_rng(3).multinomial(40, [0.5, 0.3, 0.2], size=2)
    of_tokens = mutual_information(16 * windows)
    of_windows = mutual_information(16 * windows, draws=40)
    alone = mutual_information(windows)
    assert of_windows.plug_in == pytest.approx(float(alone.plug_in))
    assert of_windows.bias == pytest.approx(float(alone.bias))
    assert of_tokens.bias == pytest.approx(float(alone.bias) / 16)


def test_effective_numbers_and_shifts():
    assert effective_number(np.array([[3, 3, 0, 0], [0, 9, 0, 0], [1, 1, 1, 1]])) == pytest.approx(
        [2.0, 1.0, 4.0]
    )
    before = np.array([[4, 0, 0], [1, 1, 0], [0, 0, 0]])
    after = np.array([[0, 0, 2], [2, 2, 4], [1, 0, 0]])
    shift = assignment_shift(before, after)
    assert shift[:2] == pytest.approx([1.0, 0.5]) and np.isnan(shift[2])
    assert np.isnan(effective_number(before)[2])


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum(axis=-1).mean() / 2)


def test_matching_finds_a_planted_permutation():
    rng = np.random.default_rng(4)
    first = rng.dirichlet(np.full(8, 0.3), 6)
    planted = rng.permutation(8)
    second = np.empty_like(first)
    second[:, planted] = first
    found = match_experts(first, second)
    assert found.similarity == pytest.approx(1.0)
    assert found.permutation.tolist() == planted.tolist()
    noisy = second + rng.dirichlet(np.ones(8), 6) * 0.1
    assert match_experts(first, 1000 * noisy).permutation.tolist() == planted.tolist()


def test_matching_is_the_best_of_all_pairings():
    rng = np.random.default_rng(5)
    first, second = rng.dirichlet(np.ones(4), (2, 3))
    second[1] = 0  # a task that the second run has not seen
    found, own = match_experts(first, second), [0, 2]
    distances = {
        pairing: total_variation(first[own], second[own][:, list(pairing)])
        for pairing in itertools.permutations(range(4))
    }
    best = min(distances, key=distances.__getitem__)
    assert tuple(found.permutation.tolist()) == best
    assert found.similarity == pytest.approx(1 - distances[best])


def test_agreement_of_seeds_is_told_from_chance():
    rng = np.random.default_rng(6)
    p_values = []
    for _ in range(120):
        first, second = rng.dirichlet(np.full(4, 0.5), (2, 6))
        null = matching_null(first, second, permutations=39, rng=rng)
        p_values.append(float(null.p_value))
        assert 0 <= null.quantiles[0] <= null.mean <= null.quantiles[-1] <= 1
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.11), "4 standard errors of a uniform mean"
    assert null.mean > 0.4, "the best of 24 pairings makes strangers alike"
    groups = np.eye(4)[[0, 0, 1, 1, 2, 3]] * 50 + 1
    agreed = matching_null(groups, groups[:, rng.permutation(4)], permutations=199, rng=rng)
    assert agreed.observed == pytest.approx(1.0) and agreed.p_value < 0.1
    collapsed = np.eye(4)[[0] * 6]
    assert matching_null(collapsed, collapsed, permutations=39, rng=rng).p_value == 1.0, (
        "one expert for everything is no agreement task by task"
    )


def dependent_windows(rng: np.random.Generator, windows: int, tokens: int = 20) -> np.ndarray:
    """Selections of windows whose tokens mostly follow one another, whatever the task."""
    shares = rng.dirichlet(np.full(4, 0.4), windows)
    return rng.multinomial(tokens, shares)


def test_without_dependence_p_values_are_uniform():
    rng, task = np.random.default_rng(7), np.repeat([0, 1, 2], 8)
    p_values, entropies, naive = [], [], []
    for _ in range(400):
        counts = dependent_windows(rng, len(task))
        null = router_null(counts, task, 3, permutations=99, rng=rng)
        p_values.append(float(null.information.p_value))
        entropies.append(null.entropy.p_value)
        # what a test of independent tokens would say: 2 N I is χ² with (T − 1)(E − 1) degrees
        naive.append(chi2.sf(2 * counts.sum() * null.information.observed, 6))
    for level in (0.05, 0.25, 0.5, 0.75):
        spread = 4 * math.sqrt(level * (1 - level) / 400)
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=spread)
        assert np.mean(np.array(entropies)[:, 0] <= level) == pytest.approx(level, abs=spread)
    assert np.mean(np.array(naive) < 0.05) > 0.5, "tokens are no independent draws"


def test_planted_dependence_is_found():
    rng, task = np.random.default_rng(8), np.repeat([0, 1, 2], 8)
    counts = dependent_windows(rng, len(task))
    counts[task == 1] = [1, 1, 17, 1]
    null = router_null(counts, task, 3, permutations=199, rng=rng)
    assert null.information.p_value < 0.03
    assert null.information.observed > null.information.quantiles[-1] > null.information.mean
    assert null.entropy.p_value[1] == 1 / 200 and null.entropy.p_value[[0, 2]].min() > 0.05
    counts[task == 0] = [17, 1, 1, 1]
    null = router_null(counts, task, 3, permutations=199, rng=rng)
    assert null.information.p_value == 1 / 200


def test_the_p_value_is_that_of_all_labellings():
    rng = np.random.default_rng(9)
    counts, task = dependent_windows(rng, 6), np.array([0, 0, 0, 1, 1, 1])
    observed = mutual_information(np.stack([counts[:3].sum(0), counts[3:].sum(0)])).plug_in
    as_far = []
    for first in itertools.combinations(range(6), 3):
        rest = [window for window in range(6) if window not in first]
        table = np.stack([counts[list(first)].sum(0), counts[rest].sum(0)])
        as_far.append(mutual_information(table).plug_in >= observed - 1e-12)
    null = router_null(counts, task, 2, permutations=4000, rng=rng)
    assert null.information.p_value == pytest.approx(np.mean(as_far), abs=0.03)
    assert null.information.observed == pytest.approx(float(observed))


def test_layers_share_permutations_however_many_are_made_at_once(monkeypatch):
    rng = np.random.default_rng(10)
    counts, task = rng.integers(0, 5, (2, 12, 4)), np.repeat([0, 1, 3], 4)
    both = router_null(counts, task, 4, permutations=50, rng=np.random.default_rng(0))
    monkeypatch.setattr(specialisation, "CELLS_AT_ONCE", 500)
    for layer in (0, 1):
        alone = router_null(counts[layer], task, 4, permutations=50, rng=np.random.default_rng(0))
        for name in NullTest.__dataclass_fields__:
            one, other = getattr(alone.information, name), getattr(both.information, name)
            np.testing.assert_allclose(one, other[..., layer])
        assert np.isnan(alone.entropy.p_value).tolist() == [False, False, True, False]
    single = router_null(counts[0], np.zeros(12, int), 1, permutations=9, rng=rng)
    assert np.isnan(single.information.observed) and np.isnan(single.information.p_value)
