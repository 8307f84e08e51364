"""Where gradient conflict between tasks is measured, and how a task's gradient is laid out as one
row.

A point is a set of parameters, or what enters or leaves a module. A policy names its own in
``measuring_points()``; research code adds to them.

Shape legend: N = tasks of this rank, P = shared parameters as one vector, F = columns of a row, D =
width of an activation.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lzero import checks
from lzero.device import in_memory_order_of
from lzero.nn.mixture import Mixture
from lzero.nn.moe import MoELayer


@dataclass(frozen=True)
class ParameterPoint:
    """Gradient with respect to parameters.

    Attributes:
        parameters: each whole, or with the number of a slice along its first axis (one expert of a
            stack).
    """

    parameters: tuple[tuple[nn.Parameter, int | None], ...]

    @classmethod
    def of(cls, *modules: nn.Module) -> "ParameterPoint":
        """All parameters of some modules.

        Raises:
            TypeError: if one is no module.
        """
        for module in modules:
            checks.instance("modules", module, nn.Module, "a module of torch")
        parameters = chain.from_iterable(module.parameters() for module in modules)
        return cls(tuple((parameter, None) for parameter in parameters))


@dataclass(frozen=True)
class ActivationPoint:
    """Gradient with respect to what enters (``input``) or leaves (``output``) a module.

    Of several inputs or outputs it is the first. Averaged over tokens it is a vector D: what would
    change all of a task's activations alike. ``flat`` it is all tokens one after another: token n of
    one task is compared with token n of another, which have nothing to do with each other, so
    cosines are close to 0; for comparison with studies that measure so.

    Attributes:
        module: that is called.
        side: which end of it.
        axis: axis of the D units of the tensor that passes; 1 for the maps ``(B, D, H, W)`` of
            convolutions. All others are averaged over.
        flat: do not average. Needs to know how many rows of a batch each task has, the same for all
            ranks, which the update says.
    """

    module: nn.Module
    side: Literal["input", "output"]
    axis: int = -1
    flat: bool = False

    def __post_init__(self) -> None:
        checks.instance("module", self.module, nn.Module, "a module of torch")
        if self.side not in ("input", "output"):
            raise ValueError(f"side={self.side!r}: allowed are 'input' and 'output'")


MeasuringPoint = ParameterPoint | ActivationPoint


def expert_points(layer: MoELayer | Mixture) -> dict[str, ParameterPoint]:
    """``shared_expert``, ``expert_{e}`` and ``router``, as far as ``layer`` has them.

    Raises:
        TypeError: if it is no mixture of experts.
    """
    checks.instance("layer", layer, (MoELayer, Mixture), "a MoELayer or a Mixture")
    points = {}
    if isinstance(layer, MoELayer) and layer.shared_experts:
        points["shared_expert"] = ParameterPoint.of(*layer.shared_experts)
    if layer.experts is not None:
        stacks = list(layer.experts.parameters())
        for expert in range(len(stacks[0])):
            points[f"expert_{expert}"] = ParameterPoint(tuple(product(stacks, [expert])))
    if layer.router is not None:
        points["router"] = ParameterPoint.of(layer.router)
    return points


def inputs_of(
    forward: Callable[..., object], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What a module was called with, in the order of its ``forward``, whether it was passed by
    place or by name; what can only be passed by name comes last.
    """
    bound = inspect.signature(forward).bind(*arguments, **keywords)
    return (*bound.args, *bound.kwargs.values())


@contextmanager
def captured(points: Mapping[str, MeasuringPoint]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what passes the activation points while the context is open: a tensor for every call
    of a point's module, apart from calls without gradient.

    Raises:
        ValueError: at the end, if no tensor with a gradient has passed a point.
    """
    at_modules: dict[str, ActivationPoint] = {}
    seen: dict[str, list[Tensor]] = {}
    for name, point in points.items():
        if isinstance(point, ActivationPoint):
            at_modules[name], seen[name] = point, []

    def remember_input(
        name: str, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        if torch.is_grad_enabled():
            seen[name].append(inputs_of(module.forward, arguments, keywords)[0])

    def remember_output(
        name: str,
        module: nn.Module,
        arguments: tuple[Any, ...],
        output: Tensor | tuple[Tensor, ...],
    ) -> None:
        if torch.is_grad_enabled():
            seen[name].append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for name, point in at_modules.items():
            if point.side == "input":
                hook = point.module.register_forward_pre_hook(
                    partial(remember_input, name), with_kwargs=True
                )
            else:
                hook = point.module.register_forward_hook(partial(remember_output, name))
            hooks.callback(hook.remove)
        yield seen
    for name, point in at_modules.items():
        reason = None if seen[name] else "the model never calls that module"
        for tensor in seen[name]:
            if not isinstance(tensor, Tensor) or not tensor.requires_grad:
                reason = "no tensor with a gradient passes there"
        if reason is not None:
            raise ValueError(
                f"measuring point {name!r}, {point.side} of a {type(point.module).__name__}: "
                f"{reason}; "
                "measure elsewhere"
            )


@dataclass(frozen=True)
class RowLayout:
    """A task's gradient as one row: the shared parameters one after another, then the activations.

    Attributes:
        parameters: shared by all tasks, in the order of their columns.
        activations: names of the activation points, in the order of their columns.
        lengths: columns of consecutive segments; a stack of experts that is measured one by one has
            a segment for each.
        components: segments of every point, by name.
    """

    parameters: tuple[nn.Parameter, ...]
    activations: tuple[str, ...]
    lengths: tuple[int, ...]
    components: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(
        cls,
        parameters: Sequence[nn.Parameter],
        points: Mapping[str, MeasuringPoint],
        widths: Mapping[str, int],
    ) -> "RowLayout":
        """Lay out ``parameters``; ``widths`` are the widths D of the activations by point.

        Raises:
            ValueError: if a point names a parameter that is not shared by all tasks.
        """
        by_point: dict[str, tuple[tuple[nn.Parameter, int | None], ...]] = {}
        sliced: set[int] = set()
        for name, point in points.items():
            if isinstance(point, ParameterPoint):
                by_point[name] = point.parameters
                sliced |= {
                    id(parameter) for parameter, part in point.parameters if part is not None
                }
        lengths: list[int] = []
        segments: dict[int, tuple[int, ...]] = {}
        for parameter in parameters:
            parts = len(parameter) if id(parameter) in sliced else 1
            segments[id(parameter)] = tuple(range(len(lengths), len(lengths) + parts))
            lengths += [parameter.numel() // parts] * parts
        components: dict[str, tuple[int, ...]] = dict.fromkeys(
            points, ()
        )  # keeps the points' order
        for name, pairs in by_point.items():
            _check_parts(name, pairs)
            for parameter, part in pairs:
                if id(parameter) not in segments:
                    raise ValueError(
                        f"measuring point {name!r} names a parameter that is not trained, or that "
                        "belongs to single "
                        "tasks (such as per-task heads): no two tasks share its gradient; leave it "
                        "out, or share the heads"
                    )
                own = segments[id(parameter)]
                components[name] += own if part is None else (own[part],)
        for name, width in widths.items():
            components[name] = (len(lengths),)
            lengths.append(width)
        return cls(tuple(parameters), tuple(widths), tuple(lengths), components)

    @property
    def num_parameters(self) -> int:
        """P."""
        return sum(parameter.numel() for parameter in self.parameters)

    def write_(
        self, row: Tensor, gradients: Sequence[Tensor | None], activations: Sequence[Tensor]
    ) -> None:
        """Fill ``row (F,)`` with gradients of the parameters (None is zero) and vectors of the
        activations, in order.
        """
        parts = []
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parts.append(torch.zeros_like(parameter) if gradient is None else gradient)
        torch.cat([part.reshape(-1).to(row.dtype) for part in (*parts, *activations)], out=row)

    def set_gradients_(self, flat: Tensor) -> None:
        """Make the parameters' columns of ``flat (F,)`` or ``(P,)`` their ``.grad``."""
        start = 0
        for parameter in self.parameters:
            parameter.grad = in_memory_order_of(
                parameter, flat[start : start + parameter.numel()].view_as(parameter)
            )
            start += parameter.numel()

    def whole_gram(self, grams: Tensor) -> Tensor:
        """Gram matrix ``(T, T)`` of all shared parameters from those of the segments ``(segments,
        T, T)``.
        """
        return grams[: len(self.lengths) - len(self.activations)].sum(dim=0)

    def component_grams(self, grams: Tensor) -> dict[str, Tensor]:
        """Gram matrices ``(T, T)`` of the points from those of the segments ``(segments, T, T)``:
        they add up.
        """
        by_segment = grams.unbind()  # a list as index would make the host wait for the device
        found = {}
        for name, segments in self.components.items():
            found[name] = torch.stack([by_segment[segment] for segment in segments]).sum(dim=0)
        return found


def _check_parts(name: str, pairs: Sequence[tuple[nn.Parameter, int | None]]) -> None:
    for parameter, part in pairs:
        if part is not None and not 0 <= part < len(parameter):
            raise ValueError(
                f"measuring point {name!r} asks for slice {part} of a parameter of shape "
                f"{tuple(parameter.shape)}; give one of "
                f"0 to {len(parameter) - 1}, or None for all of it"
            )
