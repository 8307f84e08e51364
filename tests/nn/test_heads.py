"""Per-task heads: one batched product equals a loop over rows, whatever the order and the number of rows per task."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lzero.nn.heads import Head
from lzero.nn.tasks import TaskGroups

DIM, OUT, LENGTH, NUM_TASKS = 8, 5, 3, 4
TASK_IDS = {
    "sorted and even": [0, 0, 1, 1, 2, 2, 3, 3],
    "some absent": [1, 1, 3, 3],
    "uneven": [0, 0, 0, 2],
    "unsorted": [2, 0, 2, 1, 0, 3, 3, 3, 3],
    "one row": [2],
}


def reference(head, x, task):
    y = F.layer_norm(x, (DIM,)) * head.norm1_scale[task, 0] + head.norm1_shift[task, 0]
    y = y @ head.weight1[task] + head.bias1[task, 0]
    y = F.layer_norm(y, (DIM,)) * head.norm2_scale[task, 0] + head.norm2_shift[task, 0]
    return F.gelu(y, approximate="tanh") @ head.weight2[task] + head.bias2[task, 0]


def make_head(num_tasks: int) -> Head:
    torch.manual_seed(0)
    head = Head(DIM, OUT, num_tasks, zero_init=False)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize("task_id", TASK_IDS.values(), ids=TASK_IDS)
def test_stacked_heads_equal_a_loop_forward_and_backward(task_id):
    head = make_head(NUM_TASKS)
    x = torch.randn(len(task_id), LENGTH, DIM)
    got = head(x, TaskGroups.of(torch.tensor(task_id), "cpu"))
    expected = torch.stack(
        [reference(head, row, task) for row, task in zip(x, task_id, strict=True)]
    )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    parameters = list(head.parameters())
    weight = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), parameters),
        torch.autograd.grad((expected * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task_id", TASK_IDS.values(), ids=TASK_IDS)
def test_shared_head_ignores_the_task(task_id):
    head = make_head(1)
    x = torch.randn(len(task_id), LENGTH, DIM)
    torch.testing.assert_close(
        head(x, TaskGroups.of(torch.tensor(task_id), "cpu")),
        reference(head, x, 0),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("task_id", TASK_IDS.values(), ids=TASK_IDS)
def test_groups_of_some_rows_are_those_of_their_tasks(task_id):
    head, rng = make_head(NUM_TASKS), np.random.default_rng(0)
    groups = TaskGroups.of(torch.tensor(task_id), "cpu")
    assert groups.take(np.arange(len(task_id))) is groups
    everyone = np.arange(len(task_id))
    for row in (everyone.repeat(3), rng.integers(0, len(task_id), 7), everyone[::-1]):
        x = torch.randn(len(row), LENGTH, DIM)
        taken = groups.take(row)
        assert taken.task_id.tolist() == [task_id[r] for r in row]
        expected = torch.stack(
            [reference(head, part, task_id[r]) for part, r in zip(x, row, strict=True)]
        )
        torch.testing.assert_close(head(x, taken), expected, atol=1e-5, rtol=1e-5)


def test_heads_start_at_zero():
    groups = TaskGroups.of(torch.tensor([0, 1]), "cpu")
    assert not Head(DIM, OUT, 2)(torch.randn(2, LENGTH, DIM), groups).any()
    assert Head(DIM, OUT, 2, zero_init=False)(torch.randn(2, LENGTH, DIM), groups).any()
