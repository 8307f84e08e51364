"""Progress of a long report."""

import logging

import pytest

from lzero.report import progress
from lzero.report.progress import shown


def log_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, times: list[int]
) -> list[str]:
    """What is logged while four items are worked on and the clock shows ``times``."""
    monkeypatch.setattr(progress, "monotonic", iter(times).__next__)
    with caplog.at_level(logging.INFO):
        assert list(shown("abcd", "reading")) == [*"abcd"]
    return [record.getMessage() for record in caplog.records]


def test_a_quick_report_says_nothing(monkeypatch, caplog):
    assert log_of(monkeypatch, caplog, [0, 1, 2, 3, 4]) == []


def test_a_slow_report_says_where_it_is(monkeypatch, caplog):
    said = log_of(monkeypatch, caplog, [0, 1, 6, 6, 8, 20, 20])
    assert said == ["reading: 1 of 4", "reading: 3 of 4"]
