"""Optional work stays below its share of the time."""

import pytest

from lzero.analysis.drawing_budget import DrawingBudget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_time_is_always_granted():
    assert DrawingBudget(0.0, clock=Clock()).granted


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_share_is_kept(share):
    clock = Clock()
    allowance, done = DrawingBudget(share, clock=clock), 0.0
    for _ in range(1000):
        clock.now += 1.0
        with allowance.spending() as granted:
            if granted:
                clock.now += 3.0
                done += 3.0
    elapsed = clock.now - 100.0
    assert share * elapsed - 4.0 < done <= share * elapsed + 3.0


def test_what_is_not_granted_costs_nothing():
    clock = Clock()
    allowance = DrawingBudget(0.1, clock=clock)
    with allowance.spending():
        clock.now += 10.0
    with allowance.spending() as granted:
        assert not granted
        clock.now += 90.0  # other work
    assert allowance.granted


def test_work_that_fails_counts():
    clock = Clock()
    allowance = DrawingBudget(0.1, clock=clock)
    with pytest.raises(KeyError), allowance.spending():
        clock.now += 10.0
        raise KeyError
    assert not allowance.granted
