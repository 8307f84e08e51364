"""Replay ring against a plain Python list of rows, statistics of sampling, memory."""

import os
import tracemalloc
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lzero.replay.buffer import ReplayBuffer
from lzero.replay.sum_tree import PriorityConfig
from tests.replay.buffer_cases import TASKS, A, Stream, make


def assert_windows_equal_rows(stream: Stream, batch_sizes: dict[int, int], seed: int) -> None:
    buffer, head = stream.buffer, len(stream.rows)
    windows = buffer.sample(batch_sizes, np.random.default_rng(seed))
    expected_tasks = [task for task in sorted(batch_sizes) for _ in range(batch_sizes[task])]
    assert windows.task_id.tolist() == expected_tasks
    for i, (ring, step) in enumerate(windows.index.tolist()):
        assert TASKS[ring] == windows.task_id[i]
        assert max(0, head - buffer.ring_length) <= step <= head - buffer.window
        assert windows.age[i] == head - step
        for name in stream.rows[0]:
            values = getattr(windows, name)[i].numpy()
            np.testing.assert_array_equal(values, stream.window(name, ring, step), err_msg=name)


@pytest.mark.parametrize("priority", [None, PriorityConfig()])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((3,), np.float32), ((3, 5, 4), np.uint8), ((2, 3), np.int64)]
)
def test_windows_equal_the_last_rows_of_a_plain_list(priority, shape, dtype):
    stream = Stream(make(shape=shape, dtype=dtype, priority=priority))
    # Collect calls of odd lengths: windows run across their borders and across the end of the ring.
    for steps in (13, 20, 1, 8, 30, 77):
        stream.append(steps)
        for seed in range(4):
            assert_windows_equal_rows(stream, {9: 4, 3: 10, 5: 0}, seed)


@pytest.mark.parametrize("past", [1, 3])
def test_rows_of_a_window_and_its_past_are_told_apart_by_episode(past):
    stream, seen = Stream(make(past=past)), set()
    for steps in (8, 15, 20, 60):
        stream.append(steps)
        windows = stream.buffer.sample({3: 40, 9: 40}, np.random.default_rng(0))
        assert (
            windows.observation.shape[1]
            == windows.action.shape[1]
            == past + windows.reward.shape[1]
        )
        oldest = max(0, len(stream.rows) - stream.buffer.ring_length)
        for i, (ring, step) in enumerate(windows.index.tolist()):
            episode = windows.episode[i].tolist()
            live = max(0, oldest - (step - past))
            assert episode[:live] == [-1] * live and min(episode[live:]) >= 0
            for k in range(live, past + 5):
                row = stream.rows[step - past + k]
                is_last = row["terminated"][ring] or row["reset"][ring]
                assert episode[k + 1] - episode[k] == is_last
            seen.add((live, is_last))
            for name in ("observation", "action"):
                rows = stream.rows[step - past + live : step + 6]
                expected = np.stack([row[name][ring] for row in rows])
                np.testing.assert_array_equal(getattr(windows, name)[i, live:], expected)
    assert seen >= {(live, True) for live in range(past + 1)}


def test_types_shapes_and_memory_format():
    buffer = make(shape=(3, 8, 6), dtype=np.uint8)
    Stream(buffer).append(20)
    windows = buffer.sample({5: 4}, np.random.default_rng(0))
    assert windows.observation.shape == (4, 6, 3, 8, 6)
    assert windows.observation.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert windows.observation.flatten(0, 1).data_ptr() == windows.observation.data_ptr()
    types = {
        "observation": torch.uint8,
        **dict.fromkeys(("action", "task_id", "index", "age", "episode"), torch.int64),
        **dict.fromkeys(("reward", "visits", "root_value", "weight"), torch.float32),
        **dict.fromkeys(("terminated", "truncated", "reset"), torch.bool),
    }
    assert {field.name: getattr(windows, field.name).dtype for field in fields(windows)} == types
    assert windows.visits.shape == (4, 6, A) and windows.index.shape == (4, 2)
    assert (windows.weight == 1).all()


def test_sampled_windows_are_copies():
    stream = Stream(make(shape=(2, 3, 3), dtype=np.uint8)).append(20)
    windows = stream.buffer.sample({3: 20}, np.random.default_rng(0))
    before = {field.name: getattr(windows, field.name).clone() for field in fields(windows)}
    stream.append(60)
    assert all(torch.equal(getattr(windows, name), values) for name, values in before.items())


def eligible_rows(stream: Stream, task: int) -> list[tuple[int, int]]:
    head, buffer = len(stream.rows), stream.buffer
    return [
        (ring, step)
        for ring in np.flatnonzero(TASKS == task).tolist()
        for step in range(max(0, head - buffer.ring_length), head - buffer.window + 1)
    ]


def sampled_counts(stream: Stream, task: int, draws: int, seed: int) -> dict[tuple[int, int], int]:
    """How often each row that may start a window was drawn."""
    counts = dict.fromkeys(eligible_rows(stream, task), 0)
    for ring, step in stream.buffer.sample(
        {task: draws}, np.random.default_rng(seed)
    ).index.tolist():
        counts[ring, step] += 1  # a KeyError here is a window that must not be drawn
    return counts


@pytest.mark.parametrize("steps", [20, 40, 173])
@pytest.mark.parametrize("reset_share", [0.0, 0.5])
def test_uniform_sampling_is_uniform_before_and_after_wrapping(steps, reset_share):
    stream = Stream(make(), seed=2, reset_share=reset_share).append(steps)
    counts = sampled_counts(stream, 5, 20_000, seed=3)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("steps", [25, 173])
def test_prioritised_sampling_is_proportional_and_weights_follow_the_formula(steps):
    config = PriorityConfig(alpha=0.6, beta=0.4)
    stream = Stream(make(priority=config), seed=4).append(steps)
    rng = np.random.default_rng(5)
    rows = eligible_rows(stream, 5)
    priority = dict(zip(rows, rng.gamma(1.0, 3.0, len(rows)), strict=True))
    stream.buffer.update_priorities(np.array(rows), np.array(list(priority.values())))
    mass = {row: (p + 1e-6) ** 0.6 for row, p in priority.items()}
    total = sum(mass.values())

    counts = sampled_counts(stream, 5, 40_000, seed=5)
    expected = np.array([mass[row] for row in counts]) / total * 40_000
    frequent = expected > 5
    observed = np.array(list(counts.values()))
    merged = [
        np.append(values[frequent], values[~frequent].sum() + 1e-9)
        for values in (observed, expected)
    ]
    assert stats.chisquare(merged[0], merged[1] * merged[0].sum() / merged[1].sum()).pvalue > 1e-3

    windows = stream.buffer.sample({3: 7, 5: 50}, rng)
    np.testing.assert_array_equal(windows.weight[:7], 1)  # task 3: every row has the same priority
    probability = np.array([mass[tuple(row)] / total for row in windows.index[7:].tolist()])
    weight = (len(rows) * probability) ** -0.4
    np.testing.assert_allclose(windows.weight[7:], weight / weight.max(), rtol=1e-5)


def test_new_rows_get_the_largest_priority_of_their_task():
    stream = Stream(make(priority=PriorityConfig(alpha=1.0)), reset_share=0.0).append(30)
    old = eligible_rows(stream, 5)
    stream.buffer.update_priorities(np.array(old), np.linspace(0.1, 50.0, len(old)))
    stream.append(1)
    counts = sampled_counts(stream, 5, 30_000, seed=6)
    new_rows = [row for row in counts if row not in old]
    assert len(new_rows) == 3
    average_share = 50.0 / (np.linspace(0.1, 50.0, len(old)).sum() + 150)
    for row in new_rows:
        assert counts[row] / 30_000 == pytest.approx(average_share, rel=0.2)
    untouched = sampled_counts(stream, 3, 5000, seed=7)
    assert stats.chisquare(list(untouched.values())).pvalue > 1e-3


def test_updates_of_overwritten_or_unfinished_rows_are_ignored():
    stream = Stream(make(priority=PriorityConfig()), reset_share=0.0).append(40)
    stale = stream.buffer.sample({3: 200}, np.random.default_rng(8)).index
    stream.append(40)
    unfinished = torch.tensor([[0, 79], [1, 75]])
    stream.buffer.update_priorities(torch.cat([stale, unfinished]), torch.full((202,), 1e6))
    counts = sampled_counts(stream, 3, 20_000, seed=9)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_priorities_survive_while_their_row_lives():
    stream = Stream(make(priority=PriorityConfig(alpha=1.0)), reset_share=0.0).append(60)
    marked = torch.tensor([[2, 50]])
    rng = np.random.default_rng(10)
    stream.buffer.update_priorities(marked, torch.tensor([1e9]))
    others = np.array([row for row in eligible_rows(stream, 5) if row != (2, 50)])
    stream.buffer.update_priorities(others, np.zeros(len(others)))
    assert (stream.buffer.sample({5: 100}, rng).index == marked).all()
    stream.append(30)  # step 50 is the oldest live row now; the new rows have its priority
    assert 0 < (stream.buffer.sample({5: 1000}, rng).index == marked).all(dim=1).sum() < 100
    stream.append(1)
    assert not (stream.buffer.sample({5: 1000}, rng).index == marked).all(dim=1).any()


def test_sampling_follows_the_generator_only():
    buffer = Stream(make(priority=PriorityConfig())).append(50).buffer
    draws = [buffer.sample({3: 5, 9: 6}, np.random.default_rng(11)).index for _ in range(2)]
    assert torch.equal(*draws)


def test_too_few_rows_and_wrong_requests_are_refused():
    stream = Stream(make(), reset_share=0.0).append(5)
    rng = np.random.default_rng(0)
    assert not stream.buffer.can_sample
    with pytest.raises(RuntimeError, match="5 steps per environment hold no window of 6"):
        stream.buffer.sample({3: 1}, rng)
    stream.append(1)
    assert stream.buffer.can_sample
    assert stream.buffer.sample({3: 1}, rng).index[0, 1] == 0
    for request, message in (
        ({4: 1}, "no ring holds task"),
        ({3: 0}, "not all 0"),
        ({3: -1, 5: 2}, r"batch_size_of_task\[3\]=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.buffer.sample(request, rng)
    with pytest.raises(RuntimeError, match="PriorityConfig"):
        stream.buffer.update_priorities(np.zeros((1, 2), int), np.ones(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation": np.zeros((6, 2), np.float32)}, "observation is float32"),
        ({"observation": np.zeros((6, 1), np.float64)}, "observation is float64"),
        ({"action": np.full(6, A)}, "action spans"),
        ({"action": np.full(6, -1)}, "action spans"),
        ({"reward": np.zeros((6, 1))}, "reward has shape"),
        ({"reset": np.zeros(5, bool)}, "reset has shape"),
        ({"visits": np.zeros((6, A + 1))}, "visits has shape"),
    ],
)
def test_wrong_rows_are_refused_and_leave_no_trace(change, message):
    stream = Stream(make()).append(10)
    with pytest.raises(ValueError, match=message):
        stream.buffer.append(**{**stream.rows[-1], **change})
    assert stream.buffer.head == 10
    assert_windows_equal_rows(stream, {3: 5}, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": np.array([1, 0])}, "sorted by task"),
        ({"tasks": np.array([], int)}, "task_id_of_ring"),
        ({"window": 41}, "window is 41"),
        ({"window": 1}, "window is 1"),
        ({"chunk_steps": 0}, "chunk_steps"),
    ],
)
def test_wrong_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def flags_at(buffer: ReplayBuffer, step: int) -> list[str]:
    """Per ring, the flags of a row by their first letters (TERminated, TRUncated, RESet)."""
    names = {1: "ter", 2: "tru", 4: "res"}
    stored = buffer._rings.rows["flags"][:, step % buffer.ring_length]
    return ["+".join(name for bit, name in names.items() if flags & bit) for flags in stored]


def test_cut_seals_open_episodes_only():
    buffer = make(tasks=np.zeros(6, int), length=10, window=2)
    step = Stream(buffer, reset_share=0.0)
    step.append(11)
    #        open   after a reset  after a death  died   truncated  final observation
    before = [{}, {"reset": True}, {"terminated": True}, {}, {}, {"truncated": True}]
    last = [{}, {}, {}, {"terminated": True}, {"truncated": True}, {"reset": True}]
    for flags in (before, last):
        names = ("terminated", "truncated", "reset")
        columns = {name: np.array([ring.get(name, False) for ring in flags]) for name in names}
        buffer.append(**{**step.rows[-1], **columns})
    buffer.cut()
    assert flags_at(buffer, 11) == ["tru", "res", "ter", "", "tru", "tru"]
    assert flags_at(buffer, 12) == ["res", "res", "res", "ter", "res", "res"]
    frozen = buffer._rings.rows["flags"].copy()
    buffer.cut()
    np.testing.assert_array_equal(buffer._rings.rows["flags"], frozen)


def test_a_cut_parts_the_episodes_of_a_window():
    buffer = make(length=12, window=3)
    buffer.cut()  # nothing to seal yet
    stream = Stream(buffer, reset_share=0.0).append(20)
    buffer.cut()
    stream.append(5)
    windows, across = buffer.sample({5: 2000}, np.random.default_rng(0)), 0
    for (_, start), episode in zip(windows.index.tolist(), windows.episode.tolist(), strict=True):
        if start <= 19 < start + 2:
            assert episode[19 - start] < episode[20 - start]
            across += 1
    assert across > 100


def test_bytes_per_row_at_atari_sizes():
    buffer = ReplayBuffer(
        np.zeros(8, int), 12_500, (3, 64, 64), np.uint8, A, 16, priority=PriorityConfig()
    )
    assert buffer.frame_bytes == 12_288
    assert buffer.bookkeeping_bytes < 200
    arrays = [buffer._rings.frames, buffer._rings.rows, buffer._priorities.tree._nodes]
    rows = buffer.num_rings * buffer.ring_length
    assert sum(array.nbytes for array in arrays) == rows * (
        buffer.frame_bytes + buffer.bookkeeping_bytes
    )


def test_memory_is_constant_once_the_ring_is_full():
    stream = Stream(make(shape=(3, 16, 16), dtype=np.uint8, priority=PriorityConfig()))
    rng, nothing = np.random.default_rng(0), {}

    def steps(count: int) -> int:
        for _ in range(count):
            stream.append(1)
            stream.rows[-1] = nothing  # keep the test's own list small
            if stream.buffer.can_sample:
                windows = stream.buffer.sample({3: 8, 5: 8}, rng)
                stream.buffer.update_priorities(windows.index, np.ones(16))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        full = steps(80)
        later = steps(400)
    finally:
        tracemalloc.stop()
    assert later - full < 64 * 1024  # one more row of every ring per step would be 1.8 MB


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc"
)
def test_a_large_ring_takes_no_memory_before_it_is_used():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    buffer = ReplayBuffer(
        np.zeros(4, int), 20_000, (3, 64, 64), np.uint8, A, 16, priority=PriorityConfig()
    )
    Stream(buffer).append(20)
    assert buffer._rings.frames.nbytes > 900 * 2**20
    assert resident() - before < 64 * 2**20
