"""Gradient conflict of tasks that are spread over ranks, against a reference that sees all of them."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

from lzero.analysis import gram as gram_module
from lzero.analysis.conflict import (
    GradientConflict,
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
    gram_matrices,
)
from lzero.analysis.conflict_heatmaps import (
    log_gradient_conflict_heatmaps,
)
from tests.analysis.conflict_cases import Pictures
from tests.ranks import SECONDS, run_ranks

WORLD_SIZE = 4
GROUPS = {"default": (0, 1, 2, 3), "two": (1, 3), "one": (2,)}
SEEDS = range(10)
BUFFERS = (
    (1, 1),
    (90, 20),
    (2**20, 2**16),
)  # numbers sent and multiplied at a time: of one column, some, all


@dataclass(frozen=True)
class Case:
    """Rows of each rank, the task of each row, numbers of columns of the components, number of
    tasks.
    """

    rows: tuple[Tensor, ...]
    task_ids: tuple[list[int], ...]
    lengths: list[int]
    num_tasks: int

    def groups(self, rank: int) -> dict[str, Tensor]:
        return {
            f"component {i}": part
            for i, part in enumerate(self.rows[rank].split(self.lengths, dim=1))
        }


def make_case(seed: int, ranks: int) -> Case:
    """Any split: ranks without rows, tasks on several ranks or twice on one, zero rows, absent
    tasks, sums of zero.

    Number formats vary, also between ranks.
    """
    rng = np.random.default_rng([seed, ranks])
    num_tasks = int(rng.integers(1, 9))
    lengths = rng.integers(1, [3, 20, 40][seed % 3], rng.integers(1, 6)).tolist()
    counts = rng.integers(0, 5, ranks) * (rng.random(ranks) < 0.8)
    task_ids = [rng.integers(0, num_tasks, count).tolist() for count in counts]
    dtype = [torch.float32, torch.float32, torch.bfloat16, torch.float64][seed % 4]
    scales = 10.0 ** rng.integers(-6, 7, num_tasks)
    rows = [
        torch.from_numpy(rng.normal(size=(len(ids), sum(lengths))) * scales[ids][:, None]).to(dtype)
        for ids in task_ids
    ]
    if dtype == torch.float64:
        rows[1::2] = [local.float() for local in rows[1::2]]
    for ids, local in zip(task_ids, rows, strict=True):
        local[torch.from_numpy(rng.random(len(ids)) < 0.15)] = 0
    if seed % 2 and num_tasks > 1:  # a task whose parts cancel, on the first and the last rank
        part = torch.from_numpy(rng.normal(size=(1, sum(lengths)))).bfloat16()
        for ids in task_ids:
            ids[:] = [task or 1 for task in ids]
        for rank, sign in ((0, 1), (ranks - 1, -1)):
            rows[rank] = torch.cat([rows[rank], sign * part.to(rows[rank].dtype)])
            task_ids[rank].append(0)
    return Case(tuple(rows), tuple(task_ids), lengths, num_tasks)


def reference_gram(case: Case) -> np.ndarray:
    """All rows in one place, in float64, a loop per scalar product."""
    total = np.zeros((case.num_tasks, sum(case.lengths)))
    for local, ids in zip(case.rows, case.task_ids, strict=True):
        for row, task in zip(local.double().numpy(), ids, strict=True):
            total[task] += row
    parts = np.split(total, np.cumsum(case.lengths)[:-1], axis=1)
    return np.array([[[float(np.dot(a, b)) for b in part] for a in part] for part in parts])


def halves_in_one_place(case: Case) -> GradientConflict:
    """Of the rows and of other ones as second halves, each task's added up first."""
    first = torch.zeros(case.num_tasks, sum(case.lengths), dtype=torch.float64)
    second = torch.zeros_like(first)
    for local, ids in zip(case.rows, case.task_ids, strict=True):
        for row, task in zip(local, ids, strict=True):
            first[task] += row.double()
            second[task] += (row + row.flip(0)).double()
    return compute_gradient_conflicts(first, second)


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest storage that operations make, those of ``known`` tensors left
    out.
    """

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


# What the ranks do


class Counter:
    """Counts calls of the collectives while they pass through."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        for name in ("all_gather", "all_to_all_single", "all_reduce"):
            setattr(distributed, name, self.counted(name, getattr(distributed, name)))

    def counted(self, name: str, function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            self.calls.append(name)
            return function(*args, **kwargs)

        return call

    def pop(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


def as_dict(conflict: GradientConflict) -> dict[str, Tensor]:
    """Its numbers."""
    found = {}
    for field in fields(conflict):
        if field.name not in ("undenoised", "products"):
            found[field.name] = torch.as_tensor(getattr(conflict, field.name))
    return found


def run_case(case: Case, group: distributed.ProcessGroup | None, counter: Counter) -> dict:
    rank = distributed.get_rank(group)
    rows, ids = case.rows[rank], case.task_ids[rank]
    outcome = {"grams": []}
    for buffer, block in BUFFERS:
        gram_module.BUFFER_NUMBERS, gram_module.BLOCK_NUMBERS = buffer, block
        outcome["grams"].append(gram_matrices(rows, case.lengths, ids, case.num_tasks, group))
    counter.pop()
    names = list(case.groups(rank))
    parts = {
        name: case.groups(rank)[name] for name in (names if rank % 2 else names[::-1])
    }  # any order will do
    batch = compute_gradient_conflicts_batch(
        parts, torch.tensor(ids, dtype=torch.int64), case.num_tasks, group
    )
    outcome["collectives"] = counter.pop()
    outcome["order"] = (list(parts), list(batch))
    outcome["batch"] = {name: as_dict(batch[name]) for name in names}
    outcome["whole"] = as_dict(
        compute_gradient_conflict_distributed(rows, ids, case.num_tasks, group)
    )
    second = rows + rows.flip(1)
    outcome["halves"] = as_dict(
        compute_gradient_conflict_distributed(rows, ids, case.num_tasks, group, second)
    )
    return outcome


def message_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


def mismatches(rank: int) -> dict[str, str]:
    """Errors where ranks disagree; all of them see them."""
    odd = rank == 3
    rows = torch.zeros(1, 6)
    wrong = {
        "columns": lambda: compute_gradient_conflict_distributed(
            torch.zeros(1, 7 if odd else 6), [0], 2
        ),
        "components": lambda: gram_matrices(rows, [6] if odd else [3, 3], [0], 2),
        "sizes": lambda: gram_matrices(rows, [2, 4] if odd else [4, 2], [0], 2),
        "tasks": lambda: gram_matrices(rows, [6], [0], 3 if odd else 2),
        "rows": lambda: compute_gradient_conflict_distributed(
            torch.zeros(2 if odd else 1, 6), [0], 2
        ),
        "shapes": lambda: compute_gradient_conflicts_batch(
            {"a": [torch.zeros(2), torch.zeros(3 if odd else 2)]}, [0, 1], 2
        ),
        "no tasks named": lambda: compute_gradient_conflicts_batch({"a": rows}),
    }
    return {name: message_of(call) for name, call in wrong.items()}


ABSENT = {  # gradients of task i on rank i; rank 3 has no task
    "encoder": ([1.0, 2.0, 2.0], None, [-1.0, 0.0, 1.0]),
    "expert": (None, [3.0], None),
    "nobody's": (None, None, None),
}


def absent(rank: int) -> dict:
    """Conflicts of ``ABSENT``: ranks that know no width say None, a rank without a task gives
    nothing at all.
    """
    mine = {
        name: [None if tasks[rank] is None else torch.tensor(tasks[rank])] if rank < 3 else []
        for name, tasks in ABSENT.items()
    }
    ids = [rank] if rank < 3 else []
    outcome = compute_gradient_conflicts_batch(mine, ids, 3)
    outcome["alone"] = compute_gradient_conflict_distributed(mine["encoder"], ids, 3)
    return {name: as_dict(conflict) for name, conflict in outcome.items()}


def worker() -> dict:
    """What each rank does."""
    distributed.init_process_group("gloo", timeout=timedelta(seconds=SECONDS / 2))
    rank = distributed.get_rank()
    groups = {
        name: distributed.new_group(members)
        for name, members in GROUPS.items()
        if name != "default"
    }
    groups["default"] = None
    counter = Counter()
    outcome: dict = {name: [] for name in GROUPS}
    for name, members in GROUPS.items():
        if rank in members:
            for seed in SEEDS:
                outcome[name].append(run_case(make_case(seed, len(members)), groups[name], counter))
    outcome["mismatches"] = mismatches(rank)
    outcome["absent"] = absent(rank)
    if rank == 0:
        outcome["outside"] = message_of(
            lambda: gram_matrices(torch.zeros(1, 1), [1], [0], 1, groups["one"])
        )

    local = compute_gradient_conflicts(
        torch.eye(2) * (rank + 1)
    )  # no exchange, though there is a process group
    outcome["local_norms"] = local.gradient_norms
    pictures = Pictures() if rank == 0 else None
    log_gradient_conflict_heatmaps(
        pictures, {"encoder": local, "router/layer0": local}, ["Pong", "Boxing"], 7
    )
    outcome["pictures"] = (
        [(tag, image.shape, step) for tag, image, step in pictures.added] if pictures else []
    )
    outcome["drawing_is_loaded"] = "matplotlib" in sys.modules
    distributed.barrier()
    distributed.destroy_process_group()
    return outcome


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict]:
    return run_ranks(worker, WORLD_SIZE, tmp_path_factory.mktemp("ranks"))


def assert_same_gram(actual: Tensor, expected: np.ndarray) -> None:
    """To 1e-6 of the product of lengths, as cosines want it; exactly zero for tasks whose rows are
    or sum to zero.
    """
    norms = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
    scale = norms[:, :, None] * norms[:, None]
    assert actual.shape == expected.shape and actual.dtype == torch.float64
    assert (np.abs(actual.numpy() - expected) <= 1e-9 * scale).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("group", GROUPS)
def test_ranks_agree_with_the_reference_whatever_the_split(outcomes, group, seed):
    members = GROUPS[group]
    case = make_case(seed, len(members))
    expected = reference_gram(case)
    alone = gram_matrices(
        torch.cat(case.rows), case.lengths, sum(case.task_ids, []), case.num_tasks
    )
    assert_same_gram(alone, expected)
    whole = as_dict(GradientConflict.from_gram(torch.from_numpy(expected.sum(axis=0))))
    halves = as_dict(halves_in_one_place(case))
    collectives = [outcomes[rank][group][seed]["collectives"] for rank in members]
    assert collectives == [collectives[0]] * len(members)
    for rank in members:
        outcome = outcomes[rank][group][seed]
        for gram in outcome["grams"]:
            assert_same_gram(gram, expected)
        assert outcome["order"][0] == outcome["order"][1]
        for (name, actual), reference in zip(outcome["batch"].items(), expected, strict=True):
            assert_same_conflict(
                actual, as_dict(GradientConflict.from_gram(torch.from_numpy(reference)))
            )
            first = outcomes[members[0]][group][seed]["batch"][name]
            assert all(
                torch.equal(actual[key].nan_to_num(9), first[key].nan_to_num(9)) for key in first
            ), "bit by bit"
        assert_same_conflict(outcome["whole"], whole)
        assert_same_conflict(outcome["halves"], halves)


def assert_same_conflict(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-6, atol=1e-6, equal_nan=True, msg=name
        )


def test_components_share_one_sequence_of_collectives(outcomes):
    for seed in SEEDS:
        case, calls = make_case(seed, 4), outcomes[0]["default"][seed]["collectives"]
        exchange = ["all_to_all_single", "all_reduce"] if any(case.task_ids) else []
        assert calls == ["all_gather", "all_gather", *exchange], seed


def test_the_cases_are_as_varied_as_they_say():
    cases = [make_case(seed, 4) for seed in SEEDS]
    assert any(not ids for case in cases for ids in case.task_ids), "ranks without rows"
    assert any(set(range(case.num_tasks)) - set(sum(case.task_ids, [])) for case in cases), (
        "tasks absent everywhere"
    )
    assert any(set(case.task_ids[0]) & set(case.task_ids[3]) for case in cases), (
        "tasks on several ranks"
    )
    assert any(len(set(ids)) < len(ids) for case in cases for ids in case.task_ids), (
        "twice on one rank"
    )
    assert any((case.rows[rank] == 0).all(dim=1).any() for case in cases for rank in range(4)), (
        "zero rows"
    )
    assert any(
        0 in case.task_ids[0] and (reference_gram(case)[:, 0, 0] == 0).all() for case in cases
    ), "parts that cancel"


def test_ranks_that_disagree_are_told_so(outcomes):
    for outcome in outcomes:
        *differing, rows, shapes, unnamed = outcome["mismatches"].values()
        assert all("rank 0 has" in message and "rank 3 has" in message for message in differing), (
            differing
        )
        own = outcome is outcomes[3]
        assert ("2 rows of gradients, 1 task_ids" if own else "rank 3 was given") in rows
        assert ("[(2,), (3,)]" if own else "rank 3 was given") in shapes
        assert "task_ids=None" in unnamed and "4 ranks" in unnamed
    assert "not in it" in outcomes[0]["outside"]


def test_ranks_without_a_gradient_need_not_know_its_length(outcomes):
    for name, tasks in (*ABSENT.items(), ("alone", ABSENT["encoder"])):
        expected = as_dict(
            compute_gradient_conflicts(
                [None if row is None else torch.tensor(row) for row in tasks]
            )
        )
        for outcome in outcomes:
            assert_same_conflict(outcome["absent"][name], expected)
    assert outcomes[0]["absent"]["encoder"]["valid"].tolist() == [True, False, True]


@pytest.mark.parametrize("count", [1, 4])
def test_no_rank_holds_more_than_small_buffers(monkeypatch, count):
    """A rank's share of 8 tasks x 20 000 columns is 160 kB on 4 ranks; buffers here have 1000
    numbers.
    """
    monkeypatch.setattr(gram_module, "BUFFER_NUMBERS", 1000)
    monkeypatch.setattr(gram_module, "BLOCK_NUMBERS", 500)
    # one process plays rank 2, and hears its own numbers from everybody
    monkeypatch.setattr(
        distributed,
        "all_gather",
        lambda everybody, mine, group: [one.copy_(mine) for one in everybody],
    )
    monkeypatch.setattr(
        distributed, "all_to_all_single", lambda incoming, *_, group: incoming.zero_()
    )
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, group: tensor)
    rows = torch.ones(2, 20_000)
    with LargestTensor(rows) as largest:
        gram_module.gram_of_segments(
            rows.split([6000, 14_000], dim=1), [0, 5], 8, gram_module.Ranks(count // 2, count)
        )
    assert 2000 < largest.bytes <= 4 * 1000


def test_rank_0_draws_and_the_others_do_nothing(outcomes):
    tags = [(tag, step) for tag, _, step in outcomes[0]["pictures"]]
    assert tags == [
        ("gradient_conflict_matrix/encoder", 7),
        ("gradient_conflict_matrix/router/layer0", 7),
    ]
    for rank, outcome in enumerate(outcomes):
        assert outcome["local_norms"].tolist() == [rank + 1, rank + 1]
        assert outcome["drawing_is_loaded"] == (rank == 0) and bool(outcome["pictures"]) == (
            rank == 0
        )
