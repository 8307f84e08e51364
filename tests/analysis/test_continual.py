"""Measures of continual learning against cases computed by hand."""

import numpy as np
import pytest

from lzero.analysis.continual import (
    at_turn_ends,
    backward_transfer,
    forgetting,
    forward_transfer,
)

NAN = np.nan
# Three games, each once: rows are the ends of turns.
ONCE = np.array([[9.0, 2.0, 1.0], [6.0, 8.0, 3.0], [5.0, 7.0, 10.0]])
# Two games in the order 0, 1, 0, 1.
TWICE = np.array([[4.0, 1.0], [2.0, 6.0], [8.0, 5.0], [7.0, 9.0]])


def test_forgetting_is_best_minus_final():
    found = forgetting(ONCE)
    assert found.per_game.tolist() == [4.0, 1.0, 0.0]
    assert found.average == pytest.approx(5 / 3)
    assert forgetting(TWICE).per_game.tolist() == [1.0, 0.0]


def test_forgetting_leaves_out_what_is_not_known():
    scores = np.array([[NAN, 3.0, 1.0], [5.0, NAN, 2.0], [4.0, 1.0, NAN]])
    found = forgetting(scores)
    np.testing.assert_array_equal(found.per_game, [1.0, 2.0, NAN])
    assert found.average == 1.5
    assert np.isnan(forgetting(np.full((2, 2), NAN)).average)


def test_transfer_is_that_of_the_paper_where_every_game_comes_once():
    before = np.array([0.5, 1.5, 2.0])
    backward, forward = (
        backward_transfer(ONCE, [0, 1, 2]),
        forward_transfer(ONCE, [0, 1, 2], before),
    )
    last = len(ONCE) - 1
    bwt = sum(ONCE[last, i] - ONCE[i, i] for i in range(last)) / last
    fwt = sum(ONCE[i - 1, i] - before[i] for i in range(1, last + 1)) / last
    np.testing.assert_array_equal(backward.per_game, [-4.0, -1.0, NAN])
    np.testing.assert_array_equal(forward.per_game, [NAN, 0.5, 1.0])
    assert backward.average == pytest.approx(bwt) and forward.average == pytest.approx(fwt)


def test_transfer_with_repeated_turns():
    backward = backward_transfer(TWICE, [0, 1, 0, 1])
    # game 0: 4 to 2, then 8 to 7; game 1: 6 to 5, and nothing after its last turn
    assert backward.per_game.tolist() == [-1.5, -1.0]
    assert backward.average == -1.25
    forward = forward_transfer(TWICE, [0, 1, 0, 1], np.zeros(2))
    np.testing.assert_array_equal(forward.per_game, [NAN, 1.0])
    assert forward.average == 1.0


def test_two_turns_of_a_game_in_a_row_have_no_other_between_them():
    scores = np.array([[4.0, 0.0], [6.0, 0.0], [5.0, 2.0]])
    backward = backward_transfer(scores, [0, 0, 1])
    np.testing.assert_array_equal(backward.per_game, [-1.0, NAN])


def test_what_was_never_played_or_is_unknown_has_no_transfer():
    scores = np.array([[4.0, NAN, 0.0], [2.0, 6.0, 0.0]])
    np.testing.assert_array_equal(backward_transfer(scores, [0, 1]).per_game, [-2.0, NAN, NAN])
    found = forward_transfer(scores, [0, 1], np.zeros(3))
    assert np.isnan(found.per_game).all() and np.isnan(found.average)
    known = forward_transfer(TWICE, [0, 1, 0, 1], np.array([NAN, NAN]))
    assert np.isnan(known.per_game).all()


@pytest.mark.parametrize("seed", range(3))
def test_adding_a_number_to_a_games_scores_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    scores, shift, played = rng.normal(size=(8, 4)), rng.normal(size=4), [0, 1, 2, 3] * 2
    before = rng.normal(size=4)
    moved = scores + shift
    for one, other in (
        (forgetting(scores), forgetting(moved)),
        (backward_transfer(scores, played), backward_transfer(moved, played)),
        (
            forward_transfer(scores, played, before),
            forward_transfer(moved, played, before + shift),
        ),
    ):
        np.testing.assert_allclose(one.per_game, other.per_game)
    assert (forgetting(scores).per_game >= 0).all()


def test_scores_at_the_ends_of_turns():
    steps, values = np.array([0, 10, 20, 30, 50]), np.array([0.0, 1.0, 2.0, 3.0, 5.0])
    # 20 belongs to the turn that ends there; of 31 to 40 there is nothing
    np.testing.assert_array_equal(
        at_turn_ends(steps, values, [20, 30, 40, 60]), [2.0, 3.0, NAN, 5.0]
    )
    assert np.isnan(at_turn_ends(np.empty(0), np.empty(0), [5])).all()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"played has shape \(1,\): allowed is \(3,\)"):
        backward_transfer(ONCE, [0])
    with pytest.raises(ValueError, match="played spans 0 to 3: allowed are 0 to 2"):
        backward_transfer(ONCE, [0, 1, 3])
    with pytest.raises(TypeError, match="whole numbers"):
        backward_transfer(ONCE, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"before has shape \(2,\)"):
        forward_transfer(ONCE, [0, 1, 2], np.zeros(2))
    with pytest.raises(ValueError, match="at least one turn and game"):
        forgetting(np.empty((0, 2)))
    with pytest.raises(ValueError, match="scores has an infinity"):
        forgetting(np.array([[np.inf]]))
    with pytest.raises(ValueError, match="scores has shape"):
        forgetting(np.zeros(3))
    with pytest.raises(ValueError, match="ends=.*growing env steps"):
        at_turn_ends(np.arange(2), np.zeros(2), [5, 5])
    with pytest.raises(ValueError, match=r"value has shape"):
        at_turn_ends(np.arange(2), np.zeros(3), [5])
