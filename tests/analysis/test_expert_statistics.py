"""Sliding windows of the expert selection against brute force."""

import copy
from collections import deque
from datetime import timedelta

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.analysis.expert_statistics import (
    NUM_BUCKETS,
    WINDOWS,
    ExpertSelection,
    ExpertSelectionStatistics,
    reduce_selections,
)
from lzero.config import ModelConfig, MoEConfig
from lzero.distributed import init_distributed
from lzero.model.unizero_world_models.transformer import Transformer
from lzero.nn import moe
from lzero.nn.moe import MoELayer, hardcoded_experts
from tests.ranks import SECONDS, run_ranks

NUM_TASKS, NUM_EXPERTS, DIM, LENGTH = 3, 4, 16, 6
SMALL = {
    "windows": {"fine": 4, "middle": 12, "coarse": 40},
    "num_buckets": 4,
}  # buckets of 1, 3 and 10 updates
WORLD_SIZE, UPDATES = 2, 130


def make_statistics(**options) -> ExpertSelectionStatistics:
    return ExpertSelectionStatistics(NUM_TASKS, NUM_EXPERTS, **(options or SMALL))


def random_updates(number: int, seed: int = 0) -> list[Tensor]:
    """Selections ``(G, E)`` per update; in some a task is missing."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 50, (number, NUM_TASKS, NUM_EXPERTS), generator=generator)
    return list(counts * torch.randint(0, 2, (number, NUM_TASKS, 1), generator=generator))


def assert_same(selection: ExpertSelection, other: ExpertSelection) -> None:
    assert selection.windows == other.windows
    np.testing.assert_array_equal(selection.counts, other.counts)
    np.testing.assert_array_equal(selection.data_points, other.data_points)


def recorded(
    statistics: ExpertSelectionStatistics, updates: list[Tensor]
) -> ExpertSelectionStatistics:
    for counts in updates:
        statistics.record(counts)
    return statistics


def covered(updates: int, length: int, num_buckets: int) -> int:
    """How many of the last updates a window covers."""
    bucket = length // num_buckets
    part = updates % bucket
    return min(updates, length if part == 0 else length - bucket + part)


@pytest.mark.parametrize(
    ("options", "number", "every"),
    [(SMALL, UPDATES, 1), ({"windows": WINDOWS, "num_buckets": NUM_BUCKETS}, 2_345, 67)],
    ids=["small", "real"],
)
def test_windows_equal_brute_force(options, number, every):
    statistics, updates = make_statistics(**options), random_updates(number)
    history: deque[Tensor] = deque(maxlen=max(options["windows"].values()))
    for done, counts in enumerate(updates, start=1):
        statistics.record(counts)
        history.append(counts)
        if done % every and done % 10:
            continue
        selection = statistics.selection()
        for index, length in enumerate(options["windows"].values()):
            inside = torch.stack(list(history)[-covered(done, length, options["num_buckets"]) :])
            np.testing.assert_array_equal(selection.counts[index], inside.sum(dim=0))
            np.testing.assert_array_equal(
                selection.data_points[index], inside.any(dim=2).sum(dim=0)
            )


def test_at_bucket_borders_a_window_is_exactly_its_length():
    for length, bucket in zip(SMALL["windows"].values(), (1, 3, 10), strict=True):
        assert {covered(updates, length, 4) for updates in range(length, 3 * length, bucket)} == {
            length
        }


def test_windows_and_memory():
    assert WINDOWS == {"immediate": 100, "short": 1_000, "medium": 10_000, "long": 100_000}
    statistics = ExpertSelectionStatistics(26, 8)
    assert (
        statistics.nbytes
        == sum(statistics.__dict__[name].nbytes for name in ("_ring", "_sums"))
        <= 2**20
    )


def test_windows_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match=r"windows\['odd'\]=130 .*num_buckets=100; use 100"):
        ExpertSelectionStatistics(1, 1, windows={"odd": 130})
    with pytest.raises(ValueError, match=r"windows\['short'\]=3 .*use 4"):
        ExpertSelectionStatistics(1, 1, windows={"short": 3}, num_buckets=4)


@pytest.mark.parametrize("number", [1, 57, 60])
def test_a_checkpoint_changes_nothing(tmp_path, number):
    updates = random_updates(UPDATES)
    statistics = recorded(make_statistics(), updates[:number])
    save_file(statistics.reduced().state(), tmp_path / "state.safetensors")
    restored = make_statistics()
    restored.load_state(load_file(tmp_path / "state.safetensors"))
    for done in range(number, UPDATES):
        assert statistics.updates == restored.updates == done
        for name, tensor in statistics.state().items():
            assert torch.equal(restored.state()[name], tensor), name
        assert_same(restored.selection(), statistics.selection())
        recorded(statistics, updates[done : done + 1])
        recorded(restored, updates[done : done + 1])


def test_other_ranks_restore_data_points_but_no_selections():
    statistics = recorded(make_statistics(), random_updates(57))
    main, other = make_statistics(), make_statistics()
    main.load_state(statistics.state(), is_main=True)
    other.load_state(statistics.state(), is_main=False)
    assert_same(main.selection(), statistics.selection())
    assert not other.selection().counts.any() and other.updates == main.updates == 57
    np.testing.assert_array_equal(other.selection().data_points, main.selection().data_points)


@pytest.mark.parametrize(
    "other",
    [
        ExpertSelectionStatistics(NUM_TASKS, NUM_EXPERTS + 1, **SMALL),
        ExpertSelectionStatistics(
            NUM_TASKS, NUM_EXPERTS, windows={"a": 4, "b": 12, "c": 44}, num_buckets=4
        ),
    ],
    ids=["experts", "windows"],
)
def test_statistics_of_another_shape_are_refused(other):
    with pytest.raises(ValueError, match="load them into a model of the same tasks and experts"):
        make_statistics().load_state(other.state())


def test_copies_and_readings_stay_as_they_are():
    statistics = recorded(make_statistics(), random_updates(20))
    before, ring = statistics.selection(), statistics.state()["ring"].clone()
    reduced = recorded(statistics.reduced(), random_updates(5, seed=1))
    assert torch.equal(statistics.state()["ring"], ring)
    assert_same(statistics.selection(), before)
    assert statistics.updates == 20 and reduced.updates == 25
    [summed] = reduce_selections([statistics])
    total = before.counts.sum()
    recorded(statistics, [torch.ones(NUM_TASKS, NUM_EXPERTS, dtype=torch.int64)])
    assert (
        before.counts.sum() == summed.counts.sum() == total != statistics.selection().counts.sum()
    )
    assert reduce_selections([]) == []


class OnDeviceOnly(TorchDispatchMode):
    """Refuses what moves values between host and device."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        assert all(tensor.device.type == "meta" for tensor in tensors), (
            f"{func} takes a tensor of the host"
        )
        assert func.overloadpacket.__name__ not in ("index", "index_put_", "lift_fresh"), (
            f"{func}: indices come from the host"
        )
        return func(*args, **(kwargs or {}))


def test_counting_and_recording_wait_for_no_value(monkeypatch):
    """Tensors on the meta device hold no values: to read one is an error."""
    # torch knows no autocast for meta, which routers use and the execution paths ask for
    config = MoEConfig(num_experts=NUM_EXPERTS, routing="hardcoded")
    monkeypatch.setattr(moe, "compute_dtype", lambda x: x.dtype)
    layer = MoELayer(config, DIM, NUM_TASKS).to("meta").train()
    tokens, task_id = (
        torch.empty(12, DIM, device="meta"),
        torch.empty(12, dtype=torch.int64, device="meta"),
    )
    present = torch.empty(NUM_TASKS, dtype=torch.bool, device="meta")
    recorder = ExpertSelectionRecorder({0: layer})
    with OnDeviceOnly() as mode:
        for _ in range(11):  # over borders of buckets of 1 and 10 updates
            layer(tokens, task_id)
            recorder.record(present)
            recorder.record()
    assert mode.seen > 11
    with pytest.raises(RuntimeError):
        recorder.stats()  # the test would notice a read


def make_transformer(**moe) -> Transformer:
    torch.manual_seed(0)
    config = {"embed_dim": DIM, "num_heads": 2, "num_layers": 2, "context_steps": 3}
    config["moe"] = {"num_experts": NUM_EXPERTS, "routing": "hardcoded"} | moe
    transformer = Transformer(ModelConfig.model_validate(config), NUM_TASKS, 64).train()
    transformer.recorder = ExpertSelectionRecorder(transformer.routed_layers())
    return transformer


def update(transformer: Transformer, tasks: list[int], present: Tensor | None = None) -> None:
    """A training forward of one sequence per entry of ``tasks``, and the end of the update."""
    task_id = torch.tensor(tasks).repeat_interleave(LENGTH).view(-1, LENGTH)
    transformer(torch.randn(*task_id.shape, DIM), task_id)
    transformer.recorder.record(present)


def test_hardcoded_routing_is_counted_exactly():
    transformer = make_transformer()
    for tasks in ([0, 0, 2], [0]):
        update(transformer, tasks)
    transformer.eval()(torch.randn(1, LENGTH, DIM), torch.ones(1, LENGTH, dtype=torch.int64))
    owner = hardcoded_experts(NUM_TASKS, transformer.blocks[0].feed_forward.config)
    for layer, stats in transformer.recorder.stats().items():
        assert list(stats) == [0, 1, 2]
        for task, (selections, data_points) in enumerate([(3 * LENGTH, 2), (0, 0), (LENGTH, 1)]):
            assert list(stats[task]) == list(WINDOWS)
            for window in stats[task].values():
                expected = np.zeros(NUM_EXPERTS)
                expected[owner[task]] = selections
                np.testing.assert_array_equal(window["total_counts"], expected)
                assert (window["total_selections"], window["data_points"]) == (
                    selections,
                    data_points,
                )
                frequencies = expected / selections if selections else np.full(NUM_EXPERTS, np.nan)
                np.testing.assert_array_equal(window["frequencies"], frequencies)
        one = transformer.recorder.stats(2)[layer]
        assert list(one) == [2] and one[2]["short"]["total_selections"] == LENGTH
    assert list(transformer.recorder.stats()) == [0, 1]
    for reduced in transformer.recorder.reduced().values():
        assert_same(reduced, transformer.recorder.statistics[0].selection())


def test_an_update_is_recorded_once():
    transformer = make_transformer()
    layer = transformer.blocks[0].feed_forward
    update(transformer, [0])
    assert not layer.selection_counts.any()
    transformer.recorder.record(torch.tensor([False, True, False]))
    window = transformer.recorder.stats()[0][0]["immediate"]
    assert (window["total_selections"], window["data_points"]) == (LENGTH, 1)
    assert transformer.recorder.stats()[0][1]["immediate"]["data_points"] == 1  # on another rank


def test_reset_forgets_everything():
    transformer = make_transformer()
    update(transformer, [0, 1, 2])
    transformer(torch.randn(1, LENGTH, DIM), torch.zeros(1, LENGTH, dtype=torch.int64))
    transformer.recorder.reset()
    layer = transformer.blocks[1].feed_forward
    assert not layer.selection_counts.any() and transformer.recorder.statistics[1].updates == 0
    update(transformer, [0])
    selection = transformer.recorder.reduced()[1]
    assert selection.counts.sum(axis=(1, 2)).tolist() == [LENGTH] * 4
    assert selection.data_points.sum(axis=1).tolist() == [1] * 4


def test_windows_are_no_part_of_the_module():
    """A target network is a copy that follows by averaging state: windows must not be in it."""
    transformer = make_transformer(routing="topk")
    target = copy.deepcopy(transformer)
    before = set(transformer.state_dict()), [name for name, _ in transformer.named_buffers()]
    update(transformer, [0, 1])
    assert (
        set(transformer.state_dict()),
        [name for name, _ in transformer.named_buffers()],
    ) == before
    assert not copy.deepcopy(target).blocks[0].feed_forward.selection_counts.any()


def test_blocks_that_do_not_route_have_no_statistics():
    for off in ({"enabled": False}, {"num_experts": 0}):
        transformer = make_transformer(**off)
        update(transformer, [0, 1])
        transformer.recorder.reset()
        assert transformer.recorder.stats() == transformer.recorder.reduced() == {}
        assert transformer.recorder.state() == {}
        transformer.recorder.load_state({})


def test_unknown_tasks_and_layers_are_refused():
    transformer = make_transformer()
    for task in (-1, NUM_TASKS):
        with pytest.raises(ValueError, match=f"task_id={task}: allowed are 0 to 2"):
            transformer.recorder.stats(task)
    state = transformer.recorder.state()
    assert sorted(state) == [
        f"layer{layer}.{name}" for layer in (0, 1) for name in ("ring", "updates", "windows")
    ]
    with pytest.raises(
        ValueError, match=r"are of \['layer0'\], this model routes in layers \[0, 1\]"
    ):
        transformer.recorder.load_state(
            {name: state[name] for name in state if name.startswith("layer0.")}
        )


def test_what_was_logged_is_part_of_the_state():
    transformer, resumed = make_transformer(), make_transformer()
    update(transformer, [0, 1])
    recorder = transformer.recorder
    recorder.logged = recorder.reduced()
    update(transformer, [2])
    resumed.recorder.load_state(recorder.state())
    assert resumed.recorder.logged.keys() == {0, 1}
    for layer, logged in recorder.logged.items():
        assert_same(resumed.recorder.logged[layer], logged)
        assert not np.array_equal(logged.counts, recorder.reduced()[layer].counts)
    with pytest.raises(ValueError, match=r"layer0.logged has shape \(2, 3\)"):
        resumed.recorder.load_state(recorder.state() | {"layer0.logged": torch.ones(2, 3)})
    recorder.reset()
    assert recorder.logged == {}
    resumed.recorder.load_state(recorder.state())
    assert resumed.recorder.logged == {}, "an earlier checkpoint, or one before the first log"


TASKS_OF_UPDATE = [([0, 1], [1, 2]), ([0], [0]), ([1, 1], [2]), ([2], [1, 1, 1])]
"""Tasks of each rank's sequences in each update."""


def present_in(tasks: tuple[list[int], ...]) -> Tensor:
    return torch.tensor([any(task in mine for mine in tasks) for task in range(NUM_TASKS)])


def as_arrays(selection: dict[int, ExpertSelection]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(layer.counts, layer.data_points) for layer in selection.values()]


def worker() -> dict:
    """What each rank does."""
    place = init_distributed("cpu", timeout=timedelta(seconds=SECONDS / 2))
    transformer, resumed = make_transformer(), make_transformer()
    for tasks in TASKS_OF_UPDATE[:2]:
        update(transformer, tasks[place.rank], present_in(tasks))
    state = transformer.recorder.state()
    resumed.recorder.load_state(state, is_main=place.is_main)
    for tasks in TASKS_OF_UPDATE[2:]:
        for each in (transformer, resumed):
            update(each, tasks[place.rank], present_in(tasks))
    outcome = {
        "state": state,
        "reduced": as_arrays(transformer.recorder.reduced()),
        "resumed": as_arrays(resumed.recorder.reduced()),
        "local": transformer.recorder.stats(),
    }
    place.barrier()
    place.shutdown()
    return outcome


def test_two_ranks_add_up(tmp_path):
    outcomes = run_ranks(worker, WORLD_SIZE, tmp_path)
    alone, locals_ = make_transformer(), [make_transformer() for _ in range(WORLD_SIZE)]
    states = []
    for tasks in TASKS_OF_UPDATE:
        update(alone, sum(tasks, []))
        for rank, transformer in enumerate(locals_):
            update(transformer, tasks[rank], present_in(tasks))
        states.append({name: tensor.clone() for name, tensor in alone.recorder.state().items()})
    expected = as_arrays(alone.recorder.reduced())
    for outcome, transformer in zip(outcomes, locals_, strict=True):
        np.testing.assert_equal(outcome["reduced"], expected)
        np.testing.assert_equal(outcome["resumed"], expected)
        np.testing.assert_equal(outcome["local"], transformer.recorder.stats())
        assert outcome["state"].keys() == states[1].keys()
        for name, tensor in states[1].items():
            assert torch.equal(outcome["state"][name], tensor), name
