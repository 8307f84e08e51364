"""Searches on memory that stays in its place, as a captured graph needs it, equal searches on memory of their own.

Capturing itself needs CUDA. Here a "graph" computes anew from the memory it has seen, and writes to the memory it gave out.
"""

import numpy as np
import pytest
import torch

import lzero.policy.graph_search
from lzero.config import ModelConfig
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.kernels import Edges
from lzero.mcts.search import TorchSearchModel, search
from lzero.mcts.tree import BatchTree
from lzero.model import UniZeroMTModel
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.graph_search import GraphSearchModel

NUM_TASKS, NUM_ACTIONS, DIM, SIMULATIONS = 3, 6, 16, 16
SUPPORT = ScalarSupport()


class Capture:
    """Counts what is captured."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, run):
        self.count += 1
        result = run()
        return lambda: result.copy_(run()), result


def make_model(moe: dict, **more) -> UniZeroMTModel:
    torch.manual_seed(0)
    encoder = {"kind": "mlp", "hidden": [8]}
    config = ModelConfig.model_validate(
        {"embed_dim": DIM, "num_heads": 2, "moe": moe, "encoder": encoder} | more
    )
    model = UniZeroMTModel(config, (4,), NUM_ACTIONS, NUM_TASKS).eval()
    for parameter in model.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def begin(model: UniZeroMTModel, task_id: np.ndarray, seed: int):
    random, context = torch.Generator().manual_seed(seed), model.config.history_steps
    return model.initial_inference(
        torch.randn(len(task_id), context, DIM, generator=random),
        torch.randint(0, NUM_ACTIONS, (len(task_id), context - 1), generator=random),
        torch.randint(0, context, (len(task_id),), generator=random),
        TaskGroups.of(task_id, "cpu"),
        SIMULATIONS,
    )


@pytest.mark.parametrize(
    ("moe", "residual"), [({"enabled": False}, True), ({"top_k": 2}, False)], ids=str
)
@pytest.mark.parametrize("kind, most_graphs", [(BatchTree, 1), (GumbelTree, 4)])
@torch.no_grad()
def test_searches_on_kept_memory_equal_those_on_their_own(kind, most_graphs, moe, residual):
    model, capture = make_model(moe, residual_latent=residual), Capture()
    graphs = GraphSearchModel(model, SUPPORT, capture)
    task_id = np.array([0, 0, 2, 1, 2])
    legal = np.ones((5, NUM_ACTIONS), bool)
    legal[2:, 4:] = False
    for seed in range(4):
        results = []
        for answers in (graphs, TorchSearchModel(model, SUPPORT)):
            tree = kind(5, SIMULATIONS, NUM_ACTIONS, discount=0.99)
            results.append(search(answers, begin(model, task_id, seed), legal, tree))
        got, expected = results
        np.testing.assert_array_equal(got.visits, expected.visits)
        np.testing.assert_allclose(got.value, expected.value, atol=1e-5)
        for parameter in model.parameters():  # in place, as an optimizer changes them
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert 1 <= capture.count <= most_graphs


@torch.no_grad()
def test_other_roots_are_captured_anew(monkeypatch):
    monkeypatch.setattr(lzero.policy.graph_search, "MAX_GRAPHS", 1)
    model, capture = make_model({"enabled": False}), Capture()
    graphs, plain = GraphSearchModel(model, SUPPORT, capture), TorchSearchModel(model, SUPPORT)
    for task_id in (np.array([0, 1]), np.array([1, 0]), np.array([1, 0, 2])):
        legal = np.ones((len(task_id), NUM_ACTIONS), bool)
        results = []
        for answers in (graphs, plain):
            tree = GumbelTree(len(task_id), SIMULATIONS, NUM_ACTIONS, discount=0.99)
            results.append(search(answers, begin(model, task_id, 0), legal, tree))
        np.testing.assert_array_equal(results[0].visits, results[1].visits)
    assert capture.count == 3  # one of each, the others ran as they are


def test_a_round_before_any_search_is_refused():
    model = make_model({"enabled": False})
    nothing = Edges(*np.zeros((4, 1), np.int64))
    with pytest.raises(RuntimeError, match=r"call begin\(\)"):
        GraphSearchModel(model, SUPPORT).expand(
            begin(model, np.array([0]), 0).cache, nothing, np.ones((1, NUM_ACTIONS), bool)
        )
