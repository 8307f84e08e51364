"""Both profilers with the real packages: what they write, when, and that they leave nothing behind."""

import importlib.util
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import lzero
from lzero import profiling
from lzero.config import ProfileConfig
from lzero.profiling import (
    LINE_PROFILE_FILE,
    TRACE_FILE,
    TRACED_UPDATES,
    WARM_UP_UPDATES,
    Profilers,
)

LINES, TRACE = ProfileConfig(line_profiler=True), ProfileConfig(torch_profiler=True)
BOTH = ProfileConfig(line_profiler=True, torch_profiler=True)
AFTER_WARM_UP = WARM_UP_UPDATES + TRACED_UPDATES


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * 2  # a line of a function elsewhere


class Learner:
    """Stands for the policy."""

    def __init__(self) -> None:
        self.weight = torch.ones(3, requires_grad=True)
        self.calls = 0

    def learn(self, x: float, *, fail: type[BaseException] | None = None) -> float:
        """Learn."""
        self.calls += 1  # a line of learn
        loss = self._loss(torch.full((3,), x))
        loss.backward()
        if fail is not None:
            raise fail
        return loss.item()

    @torch.no_grad()
    def measure(self) -> float:
        return self.weight.sum().item()  # a line of measure

    def _loss(self, x: torch.Tensor) -> torch.Tensor:
        return (helper(x) * self.weight).sum() + self._nothing()  # a line of the loss

    @staticmethod
    def _nothing() -> float:
        return 0.0  # a line of a static method


class Player:
    """Stands for the collector; its operator tells its part of a trace from a learner's."""

    def collect(self) -> float:
        return torch.ones(3).cosh().sum().item()  # a line of collect


def hits(run_dir: Path) -> dict[str, int]:
    """Hits of the commented lines in the table."""
    table = (run_dir / LINE_PROFILE_FILE).read_text(encoding="utf-8")
    found = re.findall(
        r"^ *\d+ +(\d+) +[\d.]+ +[\d.]+ +[\d.]+ .*# a line of (.*)$", table, re.MULTILINE
    )
    assert len(found) == len({name for _, name in found}), "every function has one table"
    return {name: int(count) for count, name in found}


def traced(run_dir: Path) -> Counter:
    """How often each event is in the trace."""
    trace = json.loads((run_dir / TRACE_FILE).read_text(encoding="utf-8"))
    return Counter(event["name"] for event in trace["traceEvents"] if event["ph"] == "X")


def test_lines_of_watched_methods_and_of_what_they_call(tmp_path):
    learner, player = Learner(), Player()
    with Profilers(LINES, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", helper, is_update=True)
        profilers.watch(player, "collect")
        results = [learner.learn(1.0) for _ in range(3)] + [player.collect()]
        learner.measure()
    assert results == [6.0, 6.0, 6.0, pytest.approx(4.629, abs=1e-3)]
    of_learn = dict.fromkeys(("learn", "the loss", "a static method", "a function elsewhere"), 3)
    assert hits(tmp_path) == of_learn | {"collect": 1}
    assert not (tmp_path / TRACE_FILE).exists()


def test_decorated_methods_and_methods_of_further_classes_are_timed(tmp_path):
    learner, player = Learner(), Player()
    player.ask = learner.measure
    with Profilers(LINES, tmp_path, is_main=True) as profilers:
        profilers.watch(player, "ask", Learner)
        assert player.ask() == 3.0
        profilers.watch(learner, "learn")
        learner.learn(1.0)
    assert hits(tmp_path) == {"measure": 1, "learn": 1, "the loss": 1, "a static method": 1}
    assert player.ask == learner.measure, "an attribute of the object is put back"


def test_the_objects_are_as_before_and_their_classes_never_touched(tmp_path):
    learner, other = Learner(), Learner()
    with Profilers(BOTH, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        profilers.watch(learner, "learn", is_update=True)
        assert "learn" in vars(learner) and learner.learn.__doc__ == "Learn."
        other.learn(1.0)
    assert hits(tmp_path) == {}
    assert vars(learner).keys() == vars(other).keys()
    learner.learn(1.0)
    assert hits(tmp_path) == {}


def test_the_trace_shows_a_few_updates_after_the_warm_up(tmp_path):
    learner, player = Learner(), Player()
    with Profilers(TRACE, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        profilers.watch(player, "collect")
        player.collect()
        for update in range(AFTER_WARM_UP + 2):
            learner.learn(1.0)
            assert (tmp_path / TRACE_FILE).exists() == (update + 1 >= WARM_UP_UPDATES)
        player.collect()
    names = traced(tmp_path)
    assert names["update"] == TRACED_UPDATES
    assert names["aten::mul"] >= TRACED_UPDATES and names["aten::cosh"] == 0
    assert not (tmp_path / LINE_PROFILE_FILE).exists()


def test_collecting_ends_a_trace_but_what_is_part_of_an_update_does_not(tmp_path):
    learner, player = Learner(), Player()
    learner._loss = lambda x: player.collect() * x.sum() * learner.weight.sum()
    with Profilers(TRACE, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        profilers.watch(player, "collect")
        for _ in range(WARM_UP_UPDATES + TRACED_UPDATES - 1):
            learner.learn(1.0)
        player.collect()
        for _ in range(3):
            learner.learn(1.0)
            player.collect()
    names = traced(tmp_path)
    assert names["update"] == names["aten::cosh"] == TRACED_UPDATES - 1


def test_an_update_that_is_watched_twice_counts_once(tmp_path):
    learner = Learner()
    with Profilers(BOTH, tmp_path, is_main=True) as profilers:
        for _ in range(2):
            profilers.watch(learner, "learn", is_update=True)
        for _ in range(AFTER_WARM_UP + 1):
            learner.learn(1.0)
    assert traced(tmp_path)["update"] == TRACED_UPDATES
    assert hits(tmp_path)["learn"] == AFTER_WARM_UP + 1


def test_large_updates_are_traced_alone(tmp_path, monkeypatch):
    learner = Learner()
    monkeypatch.setattr(profiling, "TRACE_BYTES", 1)
    with Profilers(TRACE, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        for _ in range(AFTER_WARM_UP):
            learner.learn(1.0)
    assert traced(tmp_path)["update"] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_what_was_measured_before_an_error_is_written(tmp_path, error):
    learner = Learner()
    with pytest.raises(error), Profilers(BOTH, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        for _ in range(WARM_UP_UPDATES + 1):
            learner.learn(1.0)
        learner.learn(1.0, fail=error)
    assert traced(tmp_path)["update"] == 2
    assert hits(tmp_path)["learn"] == WARM_UP_UPDATES + 2
    assert "learn" not in vars(learner)


def test_a_failing_update_of_the_warm_up_does_not_hide_its_error(tmp_path):
    learner = Learner()
    with pytest.raises(FloatingPointError), Profilers(TRACE, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        for update in range(WARM_UP_UPDATES):
            learner.learn(1.0, fail=FloatingPointError if update == WARM_UP_UPDATES - 1 else None)
    assert traced(tmp_path)["update"] == 1, "better than none"


def test_the_trace_survives_a_table_that_cannot_be_written(tmp_path):
    learner = Learner()
    (tmp_path / LINE_PROFILE_FILE).mkdir()
    with (
        pytest.raises(IsADirectoryError, match=LINE_PROFILE_FILE),
        Profilers(BOTH, tmp_path, is_main=True) as profilers,
    ):
        profilers.watch(learner, "learn", is_update=True)
        for _ in range(WARM_UP_UPDATES + 1):
            learner.learn(1.0)
    assert traced(tmp_path)["update"] == 1
    assert "learn" not in vars(learner)


def test_a_run_too_short_for_a_trace_says_so(tmp_path, caplog):
    learner = Learner()
    with caplog.at_level(logging.WARNING), Profilers(TRACE, tmp_path, is_main=True) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        learner.learn(1.0)
    assert "the run ended after 1 updates, and the first 10 are a warm-up" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("config", "is_main"), [(ProfileConfig(), True), (BOTH, False)])
def test_off_and_on_other_ranks_nothing_is_wrapped_or_written(tmp_path, config, is_main):
    learner = Learner()
    with Profilers(config, tmp_path, is_main=is_main) as profilers:
        profilers.watch(learner, "learn", is_update=True)
        assert "learn" not in vars(learner)
        learner.learn(1.0)
    assert not list(tmp_path.iterdir())


OFF = """
import sys
from pathlib import Path
from lzero.config import ProfileConfig
from lzero.profiling import Profilers
before = set(sys.modules)
with Profilers(ProfileConfig(), Path("nowhere"), is_main=True) as profilers:
    profilers.watch(Path("a"), "exists", is_update=True)
print(sorted(set(sys.modules) - before), "line_profiler" in sys.modules, "torch.profiler" in before)
"""


def test_off_imports_nothing():
    root = Path(lzero.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", OFF],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[] False False"


@pytest.mark.parametrize("is_main", [True, False])
def test_a_missing_package_is_refused_on_every_rank_with_what_to_install(
    tmp_path, monkeypatch, is_main
):
    find = importlib.util.find_spec
    without = {"line_profiler": None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: without.get(name, find(name, *rest))
    )
    with pytest.raises(
        ImportError,
        match=r"line_profiler=true needs .*\npip install line_profiler\n.*\.\[profile\]",
    ):
        Profilers(LINES, tmp_path, is_main=is_main)
    Profilers(TRACE, tmp_path, is_main=is_main)


def test_a_method_that_does_not_exist_is_refused(tmp_path):
    with (
        Profilers(LINES, tmp_path, is_main=True) as profilers,
        pytest.raises(AttributeError, match="lern"),
    ):
        profilers.watch(Learner(), "lern")
