"""Optional work stays below its share of the time."""

import pytest

from lzero.analysis.drawing_budget import DrawingBudget, PictureSchedule


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


def test_what_is_done_in_any_case_counts():
    clock = Clock()
    allowance = DrawingBudget(0.5, clock=clock)
    with allowance.spending(always=True):
        clock.now += 10.0
    with allowance.spending() as granted:
        assert not granted
    with allowance.spending(always=True) as granted:
        assert granted
        clock.now += 10.0
    clock.now += 19.0
    assert not allowance.granted
    clock.now += 2.0
    assert allowance.granted


class Pictures:
    """Drawings of measurements, each of which takes so many seconds."""

    def __init__(self, share: float, seconds: float = 1.0, drawn_step: int | None = None) -> None:
        self.clock, self.seconds = Clock(), seconds
        self.schedule = PictureSchedule(DrawingBudget(share, clock=self.clock), drawn_step)
        self.drawn: list[str] = []

    def measure(self, env_step: int, name: str = "") -> None:
        def draw() -> None:
            self.clock.now += self.seconds
            self.drawn.append(f"{env_step}{name}")

        self.schedule.offer(env_step, draw)


def test_without_a_budget_the_first_and_the_latest_are_drawn():
    pictures = Pictures(0.0)
    for env_step in range(10, 60, 10):
        pictures.measure(env_step)
        pictures.clock.now += 100.0
    assert pictures.drawn == ["10"]
    pictures.schedule.draw_latest()
    pictures.schedule.draw_latest()
    assert pictures.drawn == ["10", "50"]
    pictures.measure(60)
    pictures.schedule.draw_latest()
    assert pictures.drawn == ["10", "50", "60"]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_some_in_between_are_drawn_as_the_budget_allows(share):
    pictures = Pictures(share)
    for env_step in range(1000):
        pictures.clock.now += 1.0
        pictures.measure(env_step)
    elapsed = pictures.clock.now - 100.0
    assert share * elapsed - 2 < len(pictures.drawn) <= share * elapsed + 1
    pictures.schedule.draw_latest()
    assert len(set(pictures.drawn)) == len(pictures.drawn) and pictures.drawn[-1] == "999"


def test_no_env_step_is_drawn_twice():
    pictures = Pictures(0.0, drawn_step=10)
    pictures.measure(10, "a")
    pictures.measure(20, "b")
    pictures.measure(20, "c")
    pictures.measure(30, "d")
    pictures.measure(30, "e")
    pictures.schedule.draw_latest()
    pictures.measure(30, "f")
    pictures.schedule.draw_latest()
    assert pictures.drawn == ["20b", "30e"]


def test_nothing_measured_is_nothing_drawn():
    pictures = Pictures(1.0)
    pictures.schedule.draw_latest()
    assert pictures.drawn == []


def test_what_nobody_wants_is_never_drawn():
    schedule = PictureSchedule(DrawingBudget(1.0), wanted=False)
    schedule.offer(1, lambda: 1 / 0)
    schedule.draw_latest()


def test_a_drawing_that_fails_is_not_tried_again():
    schedule = PictureSchedule(DrawingBudget(0.0))
    with pytest.raises(ZeroDivisionError):
        schedule.offer(1, lambda: 1 / 0)
    schedule.draw_latest()
