"""Which code answers the rounds of a tree search: the compiled step where it can, torch elsewhere."""

import os

import numpy as np
import torch

from lzero.device import torch_threads
from lzero.mcts.kernels import Edges
from lzero.mcts.search import Answers, RootPrediction, SearchModel, TorchSearchModel
from lzero.model.native_search import NativeSearch
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.search_cache import SearchCache
from lzero.native import search_step
from lzero.nn.scalars import ScalarSupport
from lzero.policy.graph_search import GraphSearchModel

SWITCH = "LZERO_NATIVE_SEARCH"
"""Environment variable; 0 searches with torch everywhere."""

GRAPH_SWITCH = "LZERO_CUDA_GRAPH"
"""Environment variable; 1 searches with captured graphs on CUDA. Off by default: never measured."""

# Multiplications of a round below which waking a second thread of torch costs more than it computes
# (benchmarks/search.py).
SMALL_ROUND = 30_000_000


def round_threads(model: UniZeroMTModel, num_rows: int) -> int | None:
    """How many threads torch should use for a token pass of ``num_rows`` rows; None for all."""
    weight = model.world_model.action_embedding.weight
    small = num_rows * model.world_model.work_of_expansion() < SMALL_ROUND
    return 1 if weight.device.type == "cpu" and small else None


class CpuSearchModel(TorchSearchModel[SearchCache]):
    """Answers with torch on a CPU, each round with as many threads as it is worth."""

    model: UniZeroMTModel

    def expand(self, cache: SearchCache, edges: Edges, legal: np.ndarray) -> Answers:
        """See :class:`~lzero.mcts.search.SearchModel`."""
        with torch_threads(round_threads(self.model, len(edges.root))):
            return super().expand(cache, edges, legal)


class NativeSearchModel(TorchSearchModel[SearchCache]):
    """Answers with compiled code, in fp32 on a CPU; roots are read as torch does it.

    Args:
        model: whose weights are read anew at the beginning of a search, if they have changed.
        support: of its value and reward.
    """

    def __init__(self, model: UniZeroMTModel, support: ScalarSupport) -> None:
        super().__init__(model, support)
        self.native = NativeSearch(model, support)

    def begin(
        self, root: RootPrediction[SearchCache], legal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`~lzero.mcts.search.SearchModel`."""
        self.native.follow_weights()
        return super().begin(root, legal)

    def expand(self, cache: SearchCache, edges: Edges, legal: np.ndarray) -> Answers:
        """See :class:`~lzero.mcts.search.SearchModel`."""
        return Answers(*self.native.expand(cache, *edges, legal))


def search_model(
    model: UniZeroMTModel, support: ScalarSupport, dtype: torch.dtype = torch.float32
) -> SearchModel[SearchCache]:
    """What answers searches with ``model``, whose products run in ``dtype``."""
    device = model.world_model.action_embedding.weight.device
    if device.type == "cuda" and os.environ.get(GRAPH_SWITCH) == "1":
        return GraphSearchModel(model, support)
    if device.type != "cpu":
        return TorchSearchModel(model, support)
    switched_off = os.environ.get(SWITCH) == "0"
    if dtype != torch.float32 or switched_off or search_step() is None:
        return CpuSearchModel(model, support)
    return NativeSearchModel(model, support)
