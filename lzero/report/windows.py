"""Windows of the expert selection against the stretches of training that they are to describe."""

from collections.abc import Iterator, Sequence

from lzero import tags
from lzero.report.curves import DRAWN_WINDOWS
from lzero.report.last_part import Part, with_numbers
from lzero.report.run_data import Group, RunData


def shown_window(runs: Sequence[RunData]) -> str:
    """The longest of the windows in tables that is no longer than the last fifth of training.

    The shortest where none is; the longest where runs do not tell how many updates they made. It
    depends on lengths alone, never on what was found.
    """
    runs = with_numbers(runs, tags.EXPERTS)
    longest_first = sorted(DRAWN_WINDOWS, key=tags.WINDOWS.__getitem__, reverse=True)
    last = updates_in(runs, Part.last(runs))
    for window in longest_first:
        if not last or tags.WINDOWS[window] <= last:
            return window
    return longest_first[-1]


def updates_in(runs: Sequence[RunData], part: Part) -> int:
    """Updates in a part of training, of the run with the fewest; 0 where that is not known."""
    counts = [run.updates_by(part.end) - run.updates_by(part.start) for run in runs]
    return min(counts, default=0)


def window_notes(group: Group) -> Iterator[str]:
    """A sentence for each window in tables that looks further back than the last fifth of training.

    A number logged at update u is of the updates (u − window, u]. One of the last fifth is of that
    fifth alone only if the window is no longer; and where the window is longer than what lies
    between the first and the last fifth, both count some of the same updates.
    """
    runs = with_numbers(group.runs, tags.EXPERTS)
    first, last = Part.first(runs), Part.last(runs)
    updates = updates_in(runs, last)
    between = updates_in(runs, Part(first.end, last.start))
    if not updates:
        return
    for window in DRAWN_WINDOWS:
        length = tags.WINDOWS[window]
        if length > updates:
            what = (
                f"the {window} window of the expert selection ({length:,} updates) is longer than"
            )
            why = "numbers of the last fifth also count what was before it"
            if length > between:
                why = "the first and the last fifth share data"
            yield f"{group.label}: {what} a fifth of the training ({updates:,} updates): {why}"
