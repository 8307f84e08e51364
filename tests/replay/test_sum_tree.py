"""Sum tree against plain arrays."""

import numpy as np
import pytest
from scipy import stats

from lzero.replay.sum_tree import SumTree


@pytest.mark.parametrize("num_leaves", [1, 2, 5, 64, 100])
def test_masses_and_range_sums_equal_a_plain_array(num_leaves):
    rng = np.random.default_rng(num_leaves)
    tree, plain = SumTree(num_leaves), np.zeros(num_leaves)
    for _ in range(20):
        leaf = rng.integers(0, num_leaves, 7)
        mass = rng.random(7) * (rng.random(7) < 0.7)
        tree.update(leaf, mass)
        for index, value in zip(leaf, mass, strict=True):
            plain[index] = value
        np.testing.assert_array_equal(tree.mass(np.arange(num_leaves)), plain)
        first, stop = np.sort(rng.integers(0, num_leaves + 1, 2))
        assert tree.range_mass(first, stop) == pytest.approx(
            plain[first:stop].sum(), rel=1e-12, abs=0
        )
    tree.clear()
    assert tree.range_mass(0, num_leaves) == 0


@pytest.mark.parametrize(("first", "stop"), [(0, 37), (5, 6), (3, 30), (16, 32), (11, 37)])
def test_draws_are_proportional_within_the_range(first, stop):
    rng = np.random.default_rng(1)
    mass = rng.random(37) * (rng.random(37) < 0.7) + np.eye(37)[5]
    tree = SumTree(37)
    tree.update(np.arange(37), mass)
    draws = tree.sample(np.full(40_000, first), np.full(40_000, stop), rng.random(40_000))
    counts = np.bincount(draws, minlength=37)
    inside = np.zeros(37, bool)
    inside[first:stop] = True
    assert counts[~inside | (mass == 0)].sum() == 0
    drawable = inside & (mass > 0)
    expected = mass[drawable] / mass[drawable].sum() * 40_000
    assert drawable.sum() == 1 or stats.chisquare(counts[drawable], expected).pvalue > 1e-3


def test_no_rounding_ever_draws_a_leaf_without_mass_or_out_of_range():
    """Masses over 30 orders of magnitude next to empty leaves, and random numbers at both ends of
    [0, 1).
    """
    rng = np.random.default_rng(2)
    tree = SumTree(200)
    mass = 10.0 ** rng.uniform(-15, 15, 200) * (rng.random(200) < 0.5)
    tree.update(np.arange(200), mass)
    bounds = np.sort(rng.integers(0, 201, (20_000, 2)), axis=1)
    has_mass = np.array([mass[first:stop].sum() > 0 for first, stop in bounds])
    first, stop = bounds[has_mass].T
    for uniform in (
        np.zeros(first.size),
        np.full(first.size, np.nextafter(1, 0)),
        rng.random(first.size),
    ):
        draws = tree.sample(first, stop, uniform)
        assert ((draws >= first) & (draws < stop)).all()
        assert (mass[draws] > 0).all()


def test_sums_do_not_drift():
    """Huge masses that come and go leave nothing behind; running differences would."""
    tree = SumTree(8)
    tree.update(np.array([3]), np.array([1e-9]))
    for _ in range(1000):
        tree.update(np.array([2, 6]), np.array([1e9, 3e8]))
        tree.update(np.array([2, 6]), np.array([0.0, 0.0]))
    assert tree.range_mass(0, 8) == 1e-9


def test_misuse_is_refused():
    tree = SumTree(5)
    with pytest.raises(ValueError, match="no mass"):
        tree.sample(np.array([0]), np.array([5]), np.array([0.5]))
    for leaf in (-1, 5):
        with pytest.raises(ValueError, match="leaf spans"):
            tree.update(np.array([leaf]), np.array([1.0]))
    for mass in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="mass spans"):
            tree.update(np.array([1]), np.array([mass]))
    with pytest.raises(ValueError, match="shape"):
        tree.update(np.array([1, 2]), np.array([1.0]))
    with pytest.raises(ValueError, match="stop spans"):
        tree.sample(np.array([0]), np.array([6]), np.array([0.5]))
    with pytest.raises(ValueError, match="num_leaves"):
        SumTree(0)
