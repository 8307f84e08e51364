"""One rank against two and three: the same step, whichever way tasks and windows are shared out."""

from datetime import timedelta
from functools import partial

import pytest
import torch
from torch import Tensor

from lzero.distributed import Distributed, init_distributed
from lzero.entry.shards import assign_tasks
from tests.policy.unizero_cases import (
    GAMES,
    MODELS,
    make_config,
    make_policy,
    make_windows,
    merged,
    rows_of,
    snapshot,
)
from tests.ranks import SECONDS, run_ranks

WORLD_SIZE = 2

RANK_CASES = {
    "tasks split": {"model": {"moe": {"balance": "bias", "bias_rate": 0.1}}},
    "task by task": {"policy": {"gradient_conflict_interval": 2}},
    "predicted latents, with a past": {
        "policy": {
            "gradient_conflict_interval": 2,
            "burn_in_steps": 2,
            "loss": {"open_loop": 0.5},
        }
    },
    "balanced": {"model": {"moe": {"balance": "aux_loss", "aux_loss_weight": 1.0}}},
    "one task shared": {"env": {"games": GAMES[1:2]}, "policy": {"batch_size": 7}},
    "clipped": {"policy": {"optimiser": {"max_grad_norm": 0.1}}, "model": {"moe": {"top_k": 2}}},
    "convolutions": {"policy": {"gradient_conflict_interval": 2}, **MODELS["conv"]},
    "unequal batches": {
        "policy": {"gradient_conflict_interval": 2},
        "env": {"overrides": {GAMES[1]: {"batch_size": 2}}},
    },
    **{kind: {"policy": {"gradient_aggregator": kind}} for kind in ("pcgrad", "cagrad", "upgrad")},
}


def run_case(name: str, dist: Distributed) -> dict[str, Tensor]:
    """Two updates on this rank's part of two fixed batches; what has become of the policy."""
    config = make_config(
        merged((RANK_CASES | FEWER_TASKS)[name], {"policy": {"loss": {"adaptive_entropy": True}}})
    )
    policy = make_policy(config, dist)
    sizes = [config.batch_size_of(game) for game in config.env.games]
    shares = assign_tasks(config.num_tasks, [2] * config.num_tasks, sizes, dist.world_size)
    outcome = {}
    for seed in range(2):
        windows = make_windows(config, seed=seed)
        rows = []
        for task, size in zip(
            shares[dist.rank].task_ids, shares[dist.rank].batch_sizes, strict=True
        ):
            earlier = [
                share.batch_sizes[share.task_ids.index(task)]
                for share in shares[: dist.rank]
                if task in share.task_ids
            ]
            rows.append((windows.task_id == task).nonzero()[:, 0][sum(earlier) :][:size])
        assert dist.world_size == 1 or sum(map(len, rows)) < len(windows.task_id)
        result = policy.learn(rows_of(windows, torch.cat(rows)))
        outcome |= {
            f"means of update {seed}": result.task_means,
            f"norm of update {seed}": result.grad_norm,
        }
        outcome |= {f"losses of update {seed}": result.task_losses}
        if config.policy.gradient_conflict_interval:
            conflicts = result.conflicts()
            assert bool(conflicts) == (seed == 0), "every second update measures"
            for component, conflict in conflicts.items():
                outcome[f"cosines/{component}"] = conflict.cosine_similarity_matrix
                outcome[f"reliability/{component}"] = conflict.reliability
                outcome[f"signal/{component}"] = conflict.products.signal
    return outcome | snapshot(policy)


FEWER_TASKS = {
    "two tasks": {"policy": {"gradient_conflict_interval": 2}, "env": {"games": GAMES[:2]}}
}


def worker(names: tuple[str, ...]) -> dict[str, dict]:
    """What each rank does."""
    dist = init_distributed("cpu", timeout=timedelta(seconds=SECONDS / 2))
    outcome = {name: run_case(name, dist) for name in names}
    dist.shutdown()
    return outcome


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(
        partial(worker, tuple(RANK_CASES)), WORLD_SIZE, tmp_path_factory.mktemp("ranks")
    )


def test_three_ranks_with_two_tasks_take_the_same_step_as_one(tmp_path):
    assert_same_step(run_ranks(partial(worker, tuple(FEWER_TASKS)), 3, tmp_path), "two tasks")


@pytest.mark.parametrize("name", RANK_CASES)
def test_two_ranks_take_the_same_step_as_one(outcomes, name):
    assert_same_step(outcomes, name)


def assert_same_step(outcomes: list[dict[str, dict[str, Tensor]]], name: str) -> None:
    expected = run_case(name, Distributed())
    for outcome in outcomes:
        assert outcome[name].keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(
                outcome[name][key],
                tensor,
                atol=1e-5,
                rtol=1e-4,
                equal_nan=True,
                msg=lambda text, key=key: f"{key}: {text}",
            )
    for key, tensor in outcomes[0][name].items():
        for other in outcomes[1:]:
            if key.startswith(
                "losses"
            ):  # told, not learned from; a rank adds its own part of the spread last
                torch.testing.assert_close(tensor, other[name][key], rtol=1e-6, atol=0.0)
                continue
            assert torch.equal(tensor.nan_to_num(9.0), other[name][key].nan_to_num(9.0)), (
                f"ranks differ in {key}"
            )
