"""Progress of a long report."""

import logging

from lzero.report.progress import shown


def test_a_quick_report_says_nothing_and_a_slow_one_where_it_is(caplog):
    times = iter([0, 1, 2, 3, 4])
    with caplog.at_level(logging.INFO):
        assert list(shown("abcd", "reading", clock=lambda: next(times))) == [*"abcd"]
    assert caplog.text == ""
    times = iter([0, 1, 6, 6, 8, 20, 20])
    with caplog.at_level(logging.INFO):
        assert list(shown("abcd", "reading", clock=lambda: next(times))) == [*"abcd"]
    assert [record.getMessage() for record in caplog.records] == [
        "reading: 1 of 4",
        "reading: 3 of 4",
    ]
