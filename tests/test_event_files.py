"""What was logged behind a checkpoint is taken out of TensorBoard's files, whatever a killed process left of them."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lzero.event_files import forget_events


def write(directory: Path, steps: range) -> Path:
    """A file with two curves, each number at its own step; the file."""
    writer = SummaryWriter(str(directory), filename_suffix=f".{steps.start}")
    for step in steps:
        writer.add_scalar("a", 10.0 * step, step)
        writer.add_scalar("b/Pong", -1.0 * step, 4 * step)
    writer.close()
    [file] = directory.glob(f"*.{steps.start}")
    return file


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(directory), {"scalars": 0}).Reload()
    found = {}
    for tag in events.Tags()["scalars"]:  # files of one second have no order of their own
        numbers = sorted(events.Scalars(tag), key=lambda event: event.wall_time)
        found[tag] = [(event.step, event.value) for event in numbers]
    return found


def behind(step: int):
    return lambda tag, at, wall_time: at > (4 * step if tag == "b/Pong" else step)


def expected(steps: range) -> dict[str, list[tuple[int, float]]]:
    return {
        "a": [(step, 10.0 * step) for step in steps],
        "b/Pong": [(4 * step, -1.0 * step) for step in steps],
    }


@pytest.mark.parametrize("last", [0, 7, 19, 20, 25])
def test_each_tag_ends_at_its_own_step(tmp_path, last):
    write(tmp_path, range(20))
    later = write(tmp_path, range(20, 30))
    forget_events(tmp_path, behind(last))
    assert curves(tmp_path) == expected(range(last + 1))
    assert later.exists() == (last >= 20), "a file without an event is none"
    forget_events(tmp_path, behind(last))
    assert curves(tmp_path) == expected(range(last + 1))
    write(tmp_path, range(last + 1, 40))
    assert curves(tmp_path) == expected(range(40))


def test_nothing_is_left_of_a_run_that_begins_anew(tmp_path):
    write(tmp_path, range(5))
    forget_events(tmp_path, lambda *event: True)
    assert not list(tmp_path.iterdir())
    forget_events(tmp_path / "nowhere", lambda *event: True)


def test_what_stays_is_not_written_again(tmp_path):
    file = write(tmp_path, range(20))
    before = file.read_bytes()
    forget_events(tmp_path, behind(100))
    assert file.read_bytes() == before
    forget_events(tmp_path, behind(3))
    assert before.startswith(file.read_bytes())


@pytest.mark.parametrize("whole", [True, False])
def test_a_record_that_is_torn_anywhere_goes(tmp_path, whole):
    """Cut short, or as long as it should be but never written."""
    file = write(tmp_path, range(3))
    content = file.read_bytes()
    forget_events(tmp_path, lambda tag, step, wall_time: (tag, step) == ("b/Pong", 8))
    kept = file.stat().st_size  # without the last record
    for end in range(kept, len(content)):
        file.write_bytes(content[:end] + bytes(len(content) + 40 - end if whole else 0))
        forget_events(tmp_path, behind(100))
        assert file.read_bytes() == content[:kept], end


def test_noise_is_no_event(tmp_path):
    file = write(tmp_path, range(3))
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(50):
        file.write_bytes(content + rng.bytes(int(rng.integers(200))))
        forget_events(tmp_path, behind(100))
        assert file.read_bytes() == content
    file.write_bytes(rng.bytes(100))
    forget_events(tmp_path, behind(100))
    assert not file.exists()
