"""Can the network still learn? Dormant units, and how sharply routers decide.

A network under a changing target may lose units for good (Sokar et al., arXiv 2302.12902). One
forward with hooks looks at the units; between two looks nothing is hooked.

Shape legend: B = windows of this rank, S = steps, R = rows of a head, L = tokens of a row, T =
tokens, D = model width, E = routed experts, K = experts per token, N = sets of weights of a module,
such as experts or the tasks' heads, U = units of a set.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lzero import checks, tags
from lzero.analysis.points import inputs_of
from lzero.distributed import Distributed
from lzero.nn.heads import Head
from lzero.nn.mixture import Mixture
from lzero.nn.moe import MoELayer, SwiGLU
from lzero.nn.moe_paths import Segments

TAU = 0.025  # of Sokar et al.

Inputs = tuple[Any, ...]  # what a hook is given of a call: any module may be watched
NamedInputs = Mapping[str, Any]


@runtime_checkable
class HiddenUnits(Protocol):
    """A module, such as a dense feed-forward, that can show the activations of its hidden units."""

    forward: Callable[..., object]

    def activations(self, x: Tensor) -> Tensor:
        """``(…, U)`` of the module's first input ``(…, D)``."""


@dataclass(frozen=True)
class Activity:
    """How active the units of a module were, in sums that add up over forwards and ranks.

    Attributes:
        total: sum of ``|h|`` of every unit ``(N, U)`` float64.
        samples: what it is summed over ``(N,)`` float64; 0 for a set of weights that nothing went
            through.
    """

    total: Tensor
    samples: Tensor

    @classmethod
    def of(cls, h: Tensor) -> "Activity":
        """Of one set of weights, from its activations ``(…, U)``."""
        return cls.stack([h])

    @classmethod
    def stack(cls, activations: Sequence[Tensor]) -> "Activity":
        """Of N sets, from the activations ``(…, U)`` of each; the numbers of samples may differ."""
        totals, samples = [], []
        for h in activations:
            totals.append(_sum_of_absolute(h, dim=tuple(range(h.ndim - 1))))
            samples.append(h.shape[:-1].numel())
        total = torch.stack(totals)
        return cls(total, total.new_tensor(samples))

    def plus(self, other: "Activity") -> "Activity":
        """Both together."""
        return Activity(self.total + other.total, self.samples + other.samples)

    def dormant_ratios(self, tau: float) -> Tensor:
        """Share of dormant units of every set ``(N,)``; NaN where nothing went through.

        A unit is dormant if its mean ``|h|`` is at most ``tau`` of the mean over the set's units. The
        number of samples is the same for all of them and drops out. Where every unit is silent, all
        are dormant.
        """
        dormant = self.total <= tau * self.total.mean(dim=1, keepdim=True)
        return torch.where(self.samples > 0, dormant.double().mean(dim=1), torch.nan)


class Recorder:
    """Collects the activity of a model's modules, and how undecided its routers are, from hooks."""

    def __init__(self) -> None:
        self.activity: dict[str, Activity] = {}
        self.entropy: dict[str, Activity] = {}
        """Router entropies of the tokens, as those of a single unit."""

    def hook(self, name: str, module: nn.Module) -> RemovableHandle:
        """Watch a mixture-of-experts layer, a mixture of networks, a head, anything with a method
        ``activations(x)``, or an activation function.
        """
        if isinstance(module, MoELayer):
            return module.register_forward_pre_hook(partial(self.mixture, name), with_kwargs=True)
        if isinstance(module, Mixture):
            return module.register_forward_pre_hook(partial(self.networks, name), with_kwargs=True)
        if isinstance(module, Head):
            return module.register_forward_pre_hook(partial(self.head, name), with_kwargs=True)
        if isinstance(module, HiddenUnits):
            return module.register_forward_pre_hook(partial(self.hidden, name), with_kwargs=True)
        return module.register_forward_hook(partial(self.output, name))

    def output(self, name: str, module: nn.Module, arguments: Inputs, h: Tensor) -> None:
        """Forward hook: features ``(B, U)``, patches ``(B, P, U)`` or maps ``(B, U, H, W)``, whose
        units are channels.
        """
        _add(self.activity, name, Activity.of(h.movedim(1, -1) if h.ndim == 4 else h))

    def hidden(
        self, name: str, module: HiddenUnits, arguments: Inputs, keywords: NamedInputs
    ) -> None:
        """Forward pre-hook of a module whose first input is ``(…, D)``."""
        x = inputs_of(module.forward, arguments, keywords)[0]
        _add(self.activity, name, Activity.of(module.activations(x)))

    def mixture(
        self, name: str, module: MoELayer, arguments: Inputs, keywords: NamedInputs
    ) -> None:
        """Forward pre-hook of a mixture-of-experts layer."""
        x, task_id = inputs_of(module.forward, arguments, keywords)
        x_TD = x.flatten(0, -2)
        if module.shared_experts:
            shared = [expert.activations(x_TD) for expert in module.shared_experts]
            _add(self.activity, f"{name}/shared", Activity.stack(shared))
        if module.experts is not None:
            _, chosen_TK, scores_TE, _ = module.routing(x_TD, task_id.flatten())
            _add(self.activity, f"{name}/routed", routed_activity(module.experts, x_TD, chosen_TK))
            if scores_TE is not None:
                scores_TE = scores_TE.double()
                entropy_T = -torch.xlogy(scores_TE, scores_TE).sum(dim=1)
                _add(self.entropy, name.removeprefix("moe/"), Activity.of(entropy_T[:, None]))

    def networks(
        self, name: str, module: Mixture, arguments: Inputs, keywords: NamedInputs
    ) -> None:
        """Forward pre-hook of a mixture of networks: every hidden layer of every expert, over the
        rows that it sees; one layer is ``{name}/routed``, several are ``{name}/layer{i}/routed``.
        """
        units = module.units(*inputs_of(module.forward, arguments, keywords))
        for index, h in enumerate(units.layers):
            layer = name if len(units.layers) == 1 else f"{name}/layer{index}"
            places = h[0, 0, 0].numel()
            by_row_ETU = _sum_of_absolute(h.flatten(3), dim=(3,)) if h.ndim > 3 else h.abs()
            seen_ET = units.seen.double()
            total_EU = torch.einsum("et,etu->eu", seen_ET, by_row_ETU.double())
            _add(self.activity, f"{layer}/routed", Activity(total_EU, seen_ET.sum(dim=1) * places))
        if units.entropy is not None:
            entropy = Activity.of(units.entropy.double()[:, None])
            _add(self.entropy, name.removeprefix("moe/"), entropy)

    def head(self, name: str, module: Head, arguments: Inputs, keywords: NamedInputs) -> None:
        """Forward pre-hook of a head: every task's weights see the rows of that task."""
        x_RLD, groups = inputs_of(module.forward, arguments, keywords)
        h = module.activations(x_RLD, groups)
        if module.shared:
            _add(self.activity, name, Activity.of(h))
            return
        by_row = _sum_of_absolute(h, dim=(1,))
        num_tasks = len(module.weight1)
        total = by_row.new_zeros(num_tasks, by_row.shape[1]).index_add(0, groups.task_id, by_row)
        samples = by_row.new_zeros(num_tasks).index_add(
            0, groups.task_id, by_row.new_full((len(h),), h.shape[1])
        )
        _add(self.activity, name, Activity(total, samples))


def _add(sums: dict[str, Activity], name: str, activity: Activity) -> None:
    sums[name] = sums[name].plus(activity) if name in sums else activity


def routed_activity(experts: SwiGLU, x_TD: Tensor, chosen_TK: Tensor) -> Activity:
    """Activity of the routed experts, each over the tokens that chose it; their numbers reach the
    host.

    Args:
        experts: all of a layer, stacked.
        x_TD: tokens ``(T, D)``.
        chosen_TK: experts of every token ``(T, K)``.
    """
    segments = Segments.of(chosen_TK, len(experts.w_in))
    by_expert = x_TD.index_select(0, segments.token).split(segments.counts.tolist())
    return Activity.stack(
        [experts.activations(rows, expert) for expert, rows in enumerate(by_expert)]
    )


@torch.no_grad()
def measure_plasticity(
    model: nn.Module,
    units: Mapping[str, nn.Module],
    arguments: Sequence[object],
    dist: Distributed,
    tau: float = TAU,
) -> dict[str, float]:
    """Dormant units of every module and entropy of every router, from one forward without dropout;
    waits for the device.

    Collective: one reduction makes the numbers those of the windows of all ranks together. Call it
    at the run's precision.

    Args:
        model: any network; its mode is the same afterwards, and it counts no expert selection.
        units: modules of it to look at, by name, as a policy's ``unit_groups()`` gives them; see
            :meth:`Recorder.hook`.
        arguments: what the model is called with.
        dist: process group of the run.
        tau: share of a layer's mean activity up to which a unit is dormant.

    Raises:
        TypeError: if a unit is no module.
        ValueError: if there are no units, or ``tau`` is negative or no number.

    Returns:
        Scalars by tag; what no token went through on any rank is left out.

        - ``plasticity/dormant_ratio/{name}``: dormant units over all units, 0 to 1, after the
          activation function: of ``all``; of ``encoder``, what is named ``encoder/…``; of every
          name in ``units``. Maps have channels as units; a mixture has ``{name}/shared``,
          ``{name}/routed`` (all routed experts) and ``{name}/expert_{e}`` (over the tokens that
          chose it), and where experts are networks of several hidden layers, both for every
          ``{name}/layer{i}``; separate heads are each over the rows of their task.
        - ``plasticity/router_entropy/{name}``: mean over tokens in nats; a leading ``moe/`` of the
          name is left out.

    Source: Sokar et al., "The dormant neuron phenomenon" (arXiv 2302.12902), definition 3.1.
    """
    checks.number("tau", tau, 0.0)
    if not units:
        raise ValueError("units={}: at least one module is needed")
    for name, unit in units.items():
        checks.instance(f"units[{name!r}]", unit, nn.Module, "a module of torch")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with recording(units) as recorder:
            model(*arguments)
    finally:
        # one by one: a part may be frozen while the rest is trained
        for module, was_training in modes:
            module.training = was_training
    activities, entropies = _over_ranks([recorder.activity, recorder.entropy], dist)
    metrics = {}
    for name, ratio in _dormant_ratios(activities, tau).items():
        metrics[f"{tags.DORMANT_RATIO}{name}"] = ratio
    for name, entropy in entropies.items():
        metrics[f"{tags.ROUTER_ENTROPY}{name}"] = (entropy.total / entropy.samples).item()
    return metrics


@contextmanager
def recording(units: Mapping[str, nn.Module]) -> Iterator[Recorder]:
    """Hook the modules while the context is open."""
    recorder = Recorder()
    with ExitStack() as hooks:
        for name, module in units.items():
            hooks.callback(recorder.hook(name, module).remove)
        yield recorder


def _over_ranks(
    groups: Sequence[Mapping[str, Activity]], dist: Distributed
) -> list[dict[str, Activity]]:
    """Sums over all ranks, on the host. Shapes depend on the model alone, so one flat reduction
    serves all.
    """
    flat = []
    for group in groups:
        for mine in group.values():
            flat += [mine.total.flatten(), mine.samples]
    numbers = dist.all_reduce_sum_(torch.cat(flat)).cpu()
    parts = iter(numbers.split(list(map(Tensor.numel, flat))))
    reduced: list[dict[str, Activity]] = []
    for group in groups:
        everybody = {}
        for name, mine in group.items():  # in the order in which they were joined
            everybody[name] = Activity(next(parts).view_as(mine.total), next(parts))
        reduced.append(everybody)
    return reduced


def _dormant_ratios(activity: Mapping[str, Activity], tau: float) -> dict[str, float]:
    """Ratios of the modules, of the single routed experts, and of several modules together; those
    of nothing are left out.
    """
    counts: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for name, one in activity.items():
        ratios_N, width = one.dormant_ratios(tau), one.total.shape[1]
        seen = ratios_N[~ratios_N.isnan()]
        whole = "encoder" if name.startswith("encoder/") else None
        for place in filter(None, ("all", whole, name)):
            dormant, units = counts[place]
            counts[place] = dormant + width * seen.sum().item(), units + width * len(seen)
        if name.endswith("/routed"):
            layer = name.removesuffix("/routed")
            for expert, ratio in enumerate(ratios_N.tolist()):
                if not math.isnan(ratio):
                    counts[f"{layer}/expert_{expert}"] = ratio, 1.0
    return {name: dormant / units for name, (dormant, units) in counts.items() if units}


def _sum_of_absolute(h: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Sum of |h| over ``dim``, in float64: single precision would round differently on one rank and
    on several.
    """
    return torch.linalg.vector_norm(h, 1, dim=dim, dtype=torch.float64)
