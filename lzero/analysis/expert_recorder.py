"""Expert selection of all layers of a model, update by update.

Shape legend: G = tasks, E = routed experts, W = windows.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, distributed

from lzero import checks
from lzero.analysis.expert_statistics import (
    ExpertSelection,
    ExpertSelectionStatistics,
    WindowStatistics,
    reduce_selections,
)


class CountsSelections(Protocol):
    """A layer that counts in ``selection_counts (G, E)`` int64 which experts each task chose, such
    as ``MoELayer``.
    """

    selection_counts: Tensor


class ExpertSelectionRecorder:
    """Windows over the expert selection of the layers of a model.

    Args:
        layers: those with routed experts, by number; all of one shape. May be empty.
        draws_per_update: independent draws, windows of a replay, that an update has of each of the G tasks. What
            experts tell of tasks is corrected by it when it is logged. None takes every selection for a draw.

    Attributes:
        logged: selection of all ranks when it was last logged, by layer; empty before. Whoever logs
            sets it. It is part of the state, so that an interrupted run says the same of how far
            the selection has moved since.

    Raises:
        TypeError: if ``layers`` is no mapping, or one does not count.
        ValueError: if ``draws_per_update`` has a number below 1, or not one per task.
    """

    def __init__(
        self,
        layers: Mapping[int, CountsSelections],
        draws_per_update: Sequence[int] | None = None,
    ) -> None:
        checks.mapping("layers", layers, "layers by number")
        for index, layer in layers.items():
            if not hasattr(layer, "selection_counts"):
                raise TypeError(
                    f"layers[{index}]={type(layer).__name__}: allowed is what has selection_counts"
                )
        self.layers = dict(layers)
        self.draws_per_update: tuple[int, ...] | None = None
        if draws_per_update is not None:
            self.draws_per_update = checks.sizes("draws_per_update", draws_per_update)
            for layer in self.layers.values():
                checks.shape(
                    "draws_per_update", np.array(draws_per_update), len(layer.selection_counts)
                )
        self.logged: dict[int, ExpertSelection] = {}
        self.statistics: dict[int, ExpertSelectionStatistics] = {}
        for index, layer in self.layers.items():
            num_tasks, num_experts = layer.selection_counts.shape
            self.statistics[index] = ExpertSelectionStatistics(
                num_tasks, num_experts, layer.selection_counts.device
            )

    def record(self, present: Tensor | None = None) -> None:
        """Move the layers' counts of the update that ends into the windows; once per update,
        without a host sync.

        Args:
            present: tasks ``(G,)`` bool that took part in the update on any rank, the same on every
                rank; None takes those that this rank has counted.
        """
        for index, layer in self.layers.items():
            self.statistics[index].record(layer.selection_counts, present)
            layer.selection_counts.zero_()

    def stats(
        self, task_id: int | None = None
    ) -> dict[int, dict[int, dict[str, WindowStatistics]]]:
        """Selections that this rank recorded, ``{layer: {task: {window: {...}}}}``, of one task or
        of all.

        Waits for the device.
        """
        return {index: layer.selection().stats(task_id) for index, layer in self.statistics.items()}

    def reduced(self, group: distributed.ProcessGroup | None = None) -> dict[int, ExpertSelection]:
        """Selections that all ranks recorded, by layer; collective: :func:`reduce_selections`."""
        return dict(
            zip(
                self.statistics,
                reduce_selections(list(self.statistics.values()), group),
                strict=True,
            )
        )

    def reset(self) -> None:
        """Forget all selections, also those not recorded yet."""
        self.logged = {}
        for index, layer in self.layers.items():
            self.statistics[index].reset()
            layer.selection_counts.zero_()

    def state(self, group: distributed.ProcessGroup | None = None) -> dict[str, Tensor]:
        """Windows of all layers and ranks for a checkpoint, ``layer{l}.{name}``; collective.

        ``layer{l}.logged (W, G, E + 1)`` is there only if something was logged.
        """
        state = {}
        for index, layer in self.statistics.items():
            for name, tensor in layer.reduced(group).state().items():
                state[f"layer{index}.{name}"] = tensor
            if index in self.logged:
                known = self.logged[index]
                numbers = np.concatenate([known.counts, known.data_points[..., None]], axis=-1)
                state[f"layer{index}.logged"] = torch.from_numpy(numbers)
        return state

    def load_state(self, state: Mapping[str, Tensor], *, is_main: bool = True) -> None:
        """Continue from :meth:`state`; ``is_main`` on the one rank that takes over the selections.

        Raises:
            ValueError: if ``state`` comes from other layers, windows, tasks or experts.
        """
        saved = {name.partition(".")[0] for name in state}
        if saved != {f"layer{index}" for index in self.layers}:
            raise ValueError(
                f"the expert statistics are of {sorted(saved)}, this model routes in layers "
                f"{list(self.layers)}; "
                "load them into a model of the same layers, or start without them"
            )
        self.logged = {}
        for index, layer in self.statistics.items():
            prefix, own = f"layer{index}.", {}
            for name, tensor in state.items():
                if name.startswith(prefix):
                    own[name.removeprefix(prefix)] = tensor
            layer.load_state(own, is_main=is_main)
            if "logged" in own:  # earlier checkpoints have none
                self.logged[index] = layer.as_selection(own["logged"], f"layer{index}.logged")
