"""On an accelerator an update and a search stay on their device, and the host waits where it has to and nowhere else."""

import numpy as np
import pytest
import torch

import lzero.mcts.search
from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.config import ExperimentConfig
from lzero.mcts.search import TorchSearchModel, make_tree, search
from lzero.nn.parameters import adamw
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy
from lzero.policy.losses import EntropyWeight
from lzero.policy.points import standard_points
from lzero.policy.search_model import search_model
from lzero.replay.windows import ReplayWindows
from tests.fake_accelerator import WAITS, fake_accelerator, fake_mode, move_, moved

NUM_ACTIONS, DIM = 6, 32
TASK_ID = np.array([0, 0, 0, 1, 1])
BLOCKS = [
    {"enabled": False},
    {"top_k": 2},
    {"routing": "soft"},
    {"routing": "hardcoded"},
    {"balance": "bias"},
]


def make_policy(moe: dict, **policy) -> UniZeroMTPolicy:
    """A policy whose networks, and what it keeps of them, are on the accelerator."""
    config = ExperimentConfig.model_validate(
        {
            "device": "cpu",
            "env": {"games": ("Pong", "Boxing")},
            "model": {
                "embed_dim": DIM,
                "num_heads": 2,
                "task_embedding": "register",
                "moe": moe,
                "encoder": {"kind": "resnet", "widths": (8,)},
            },
            "policy": {"batch_size": 3, "unroll_steps": 4} | policy,
        }
    )
    made = UniZeroMTPolicy(config, (3, 64, 64), np.ones((2, NUM_ACTIONS), bool))
    with fake_mode():
        made.device = fake_accelerator()
        move_(made.model), move_(made.target)
        made.legal = moved(made.legal)
        made.optimizer = adamw(made.model, config.policy.optimiser)
        made.entropy_weight = EntropyWeight(config.policy.loss, made.legal.sum(dim=1))
        made.expert_statistics = ExpertSelectionRecorder(made.routed_layers)
        made._points = standard_points(made.model)
    return made


def windows(rows: int) -> ReplayWindows:
    """As replay hands them out, on the host; within ``fake_mode()``."""
    shape = (len(TASK_ID), rows)
    flags = [torch.zeros(shape, dtype=torch.bool) for _ in range(3)]
    frames = torch.zeros(*shape, 64, 64, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    index = torch.zeros(len(TASK_ID), 2, dtype=torch.int64)
    return ReplayWindows(
        frames,
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape),
        *flags,
        torch.full((*shape, NUM_ACTIONS), 1 / NUM_ACTIONS),
        torch.zeros(shape),
        TASK_ID,  # the one thing whose numbers the host looks at: fake tensors have none
        torch.ones(len(TASK_ID)),
        index,
        index[:, 0],
        torch.zeros(shape, dtype=torch.int64),
    )


def test_the_accelerator_is_strict():
    on_host, on_device = torch.ones(3), fake_accelerator()
    with fake_mode():
        there = moved(on_host)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(WAITS):
            there.sum().item()
        assert (there * 2).device == on_device


@pytest.mark.parametrize("measures", [False, True])
@pytest.mark.parametrize("moe", BLOCKS, ids=str)
def test_an_update_waits_for_no_number(moe, measures):
    policy = make_policy(moe, gradient_conflict_interval=10)
    policy.train_iter = 0 if measures else 1
    with fake_mode():
        batch = windows(policy.config.policy.window)
        result = policy.learn(batch)
        assert bool(result.measured) == measures
        for tensor in (
            result.task_losses,
            result.grad_norm,
            result.value_error,
            *(result.measured.by_point.values() if result.measured else ()),
        ):
            assert tensor.device == fake_accelerator()


@pytest.mark.parametrize("kind, rounds", [("gumbel", 3), ("puct", 8)])
@pytest.mark.parametrize("moe", BLOCKS, ids=str)
def test_a_search_brings_each_round_to_the_host_at_once(moe, kind, rounds, monkeypatch):
    settings = {"kind": kind, "num_simulations": 8, "max_considered_actions": 4}
    policy = make_policy(moe, search=settings)
    rng, transfers = np.random.default_rng(0), []

    def to_host(tensor: torch.Tensor) -> np.ndarray:
        """Anything that a search may get: rewards, values, survival, then a distribution."""
        transfers.append(tensor.device)
        found = rng.random(tuple(tensor.shape), np.float32)
        distribution = found[3:] if len(transfers) > 2 else found.T
        if found.ndim == 2:
            distribution /= distribution.sum(axis=0)
        return found

    monkeypatch.setattr(lzero.mcts.search, "_to_host", to_host)
    context = policy.config.model.context_steps
    legal = np.ones((len(TASK_ID), NUM_ACTIONS), bool)
    tree = make_tree(policy.config.policy.search, len(TASK_ID), 8, NUM_ACTIONS, discount=0.99)
    with fake_mode():
        device = fake_accelerator()
        answers = search_model(policy.model, policy.support)
        assert type(answers) is TorchSearchModel
        root = policy.model.initial_inference(
            torch.empty(len(TASK_ID), context, DIM, device=device),
            torch.zeros(len(TASK_ID), context - 1, dtype=torch.int64, device=device),
            torch.zeros(len(TASK_ID), dtype=torch.int64, device=device),
            TaskGroups.of(TASK_ID, device),
            8,
        )
        found = search(answers, root, legal, tree)
    assert found.visits.sum() == 8 * len(TASK_ID)
    assert transfers == [fake_accelerator()] * (2 + rounds)
