"""Rounds of a tree search as captured CUDA graphs: one launch in place of some hundred.

A graph replays the same kernels on the same memory. So what changes is copied to where it looks: the
roots at the beginning of a search, the rows before each round. Rounds whose rows belong to the same
roots have the same shapes and tasks, and share a graph; with Gumbel search there are two or three.

Shape legend: E = rows of a round, A = actions.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lzero.mcts.kernels import Edges
from lzero.mcts.search import Answers, RootPrediction, TorchSearchModel
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.search_cache import SearchCache
from lzero.nn.scalars import ScalarSupport

MAX_GRAPHS = 32  # each keeps the memory of its round; further kinds of rounds run as they are
# As torch recommends: libraries choose their algorithms and allocate in the first ones.
WARM_UPS = 3

Run = Callable[[], Tensor]
Capture = Callable[[Run], tuple[Callable[[], object], Tensor]]
"""Takes what computes a tensor; gives what computes it again, and the tensor, which stays in its place."""


def cuda_graph(run: Run) -> tuple[Callable[[], object], Tensor]:
    """Capture ``run`` on the current device."""
    cached = torch.is_autocast_cache_enabled()
    # weights that autocast has cast once would be freed when its context ends, and read by the graph
    torch.set_autocast_cache_enabled(False)
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
    finally:
        torch.set_autocast_cache_enabled(cached)
    return graph.replay, result


class _Round:
    """A captured round.

    Args:
        model: answers it.
        cache: in whose memory it runs.
        edges: a round of its kind.
        legal: legal actions of the roots ``(N, A)``.
        capture: how.
    """

    def __init__(
        self,
        model: "GraphSearchModel",
        cache: SearchCache,
        edges: Edges,
        legal: np.ndarray,
        capture: Capture,
    ) -> None:
        groups = cache.groups.take(edges.root)
        device = groups.task_id.device
        illegal = torch.from_numpy(~legal[edges.root]).to(device)
        self.rows = torch.from_numpy(cache.rows(*edges)).to(device)
        self.staged = torch.empty(
            self.rows.shape, dtype=torch.int64, pin_memory=device.type == "cuda"
        )

        def run() -> Tensor:
            return model.packed(model.model.expand(cache, self.rows, groups), illegal)

        self.replay, self.packed = capture(run)

    def expand(self, rows: np.ndarray) -> Tensor:
        """Answers ``(3 + A, E)``; ``rows`` are those of :meth:`SearchCache.rows`."""
        # free again: the answers of the round before have reached the host
        self.staged.copy_(torch.from_numpy(rows))
        self.rows.copy_(self.staged, non_blocking=True)
        self.replay()
        return self.packed


class GraphSearchModel(TorchSearchModel[SearchCache]):
    """Answers with captured graphs; searches of one shape and with the same tasks share them.

    Args:
        model: on the device.
        support: of its value and reward.
        capture: makes a graph of a round.
    """

    model: UniZeroMTModel

    def __init__(
        self, model: UniZeroMTModel, support: ScalarSupport, capture: Capture = cuda_graph
    ) -> None:
        super().__init__(model, support)
        self.capture = capture
        self.cache: SearchCache | None = None
        self.rounds: dict[bytes, _Round] = {}

    def begin(
        self, root: RootPrediction[SearchCache], legal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`~lzero.mcts.search.SearchModel`."""
        if self.cache is None or not self.cache.is_like(root.cache):
            self.cache = root.cache
            self.rounds.clear()
        else:
            self.cache.take_roots_of_(root.cache)
        return super().begin(root, legal)

    def expand(self, cache: SearchCache, edges: Edges, legal: np.ndarray) -> Answers:
        """See :class:`~lzero.mcts.search.SearchModel`; ``cache`` is that of :meth:`begin`."""
        if self.cache is None:
            raise RuntimeError("no search has begun; call begin() with its roots first")
        kind = edges.root.tobytes() + legal.tobytes()
        if kind not in self.rounds:
            if len(self.rounds) == MAX_GRAPHS:
                return super().expand(self.cache, edges, legal)
            self.rounds[kind] = _Round(self, self.cache, edges, legal, self.capture)
        return self.brought_to_host(self.rounds[kind].expand(self.cache.rows(*edges)))
