"""Can the network still learn? Dormant units, how sharply routers decide, lengths of weights and gradients.

A network under a changing target may lose units for good (Sokar et al., arXiv 2302.12902). One forward with hooks looks
at the units; between two looks nothing is hooked.

Shape legend: B = windows of this rank, S = steps, R = rows of a head, L = tokens of a row, T = tokens, D = model width,
E = routed experts, K = experts per token, N = sets of weights of a module, such as experts or the tasks' heads,
U = units of a set, P = parameters.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lzero.distributed import Distributed
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.heads import Head, TaskGroups
from lzero.model.unizero_world_models.moe import MoELayer, Segments

TAU = 0.025  # of Sokar et al.
ENCODER_ACTIVATIONS = (nn.ReLU, nn.GELU)
BLOCK_PARAMETER = re.compile(r"world_model\.transformer\.blocks\.(\d+)\.(attention|feed_forward)\.")
HEAD_PARAMETER = re.compile(r"world_model\.(\w+_head)\.")
EMBEDDING_PARAMETER = re.compile(r"world_model\.(action_embedding|task_embedding|join_task|registers)\b")


@dataclass(frozen=True)
class Activity:
    """How active the units of a module were, in sums that add up over forwards and ranks.

    Attributes:
        total: sum of |h| of every unit ``(N, U)`` float64.
        samples: what it is summed over ``(N,)`` float64; 0 for a set of weights that nothing went through.
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
        total = torch.stack([_sum_of_absolute(h, dim=tuple(range(h.ndim - 1))) for h in activations])
        return cls(total, total.new_tensor([h.shape[:-1].numel() for h in activations]))

    def plus(self, other: "Activity") -> "Activity":
        """Both together."""
        return Activity(self.total + other.total, self.samples + other.samples)

    def dormant_ratios(self, tau: float) -> Tensor:
        """Share of dormant units of every set ``(N,)``; NaN where nothing went through.

        A unit is dormant if its mean |h| is at most ``tau`` of the mean over the set's units. The number of samples is
        the same for all of them and drops out. Where every unit is silent, all are dormant.
        """
        dormant = self.total <= tau * self.total.mean(dim=1, keepdim=True)
        return torch.where(self.samples > 0, dormant.double().mean(dim=1), torch.nan)


class Recorder:
    """Collects the activity of a model's modules, and how undecided its routers are, from hooks."""

    def __init__(self) -> None:
        self.activity: dict[str, Activity] = {}
        self.entropy: dict[str, Activity] = {}
        """Router entropies of the tokens, as those of a single unit."""

    def encoder(self, name: str, module: nn.Module, arguments: tuple[Any, ...], h: Tensor) -> None:
        """Forward hook: features ``(B, U)``, patches ``(B, P, U)`` or maps ``(B, U, H, W)``, whose units are channels."""
        _add(self.activity, name, Activity.of(h.movedim(1, -1) if h.ndim == 4 else h))

    def feed_forward(self, layer: int, module: nn.Module, arguments: tuple[Tensor, Tensor]) -> None:
        """Forward pre-hook of a block's feed-forward."""
        x, task_id = arguments
        if not isinstance(module, MoELayer):
            _add(self.activity, f"mlp/layer{layer}", Activity.of(module.activations(x)))
            return
        x_TD = x.flatten(0, -2)
        if module.shared_experts:
            shared = [expert.activations(x_TD) for expert in module.shared_experts]
            _add(self.activity, f"moe/layer{layer}/shared", Activity.stack(shared))
        if module.experts is not None:
            _, chosen_TK, scores_TE, _ = module.routing(x_TD, task_id.flatten())
            _add(self.activity, f"moe/layer{layer}/routed", routed_activity(module, x_TD, chosen_TK))
            if scores_TE is not None:
                scores_TE = scores_TE.double()
                entropy_T = -torch.xlogy(scores_TE, scores_TE).sum(dim=1)
                _add(self.entropy, f"layer{layer}", Activity.of(entropy_T[:, None]))

    def head(self, name: str, module: Head, arguments: tuple[Tensor, TaskGroups]) -> None:
        """Forward pre-hook of a head: every task's weights see the rows of that task."""
        x_RLD, groups = arguments
        h = module.activations(x_RLD, groups)
        if module.shared:
            _add(self.activity, name, Activity.of(h))
            return
        by_row = _sum_of_absolute(h, dim=(1,))
        num_tasks = len(module.weight1)
        total = by_row.new_zeros(num_tasks, by_row.shape[1]).index_add(0, groups.task_id, by_row)
        samples = by_row.new_zeros(num_tasks).index_add(0, groups.task_id, by_row.new_full((len(h),), h.shape[1]))
        _add(self.activity, name, Activity(total, samples))


def _add(sums: dict[str, Activity], name: str, activity: Activity) -> None:
    sums[name] = sums[name].plus(activity) if name in sums else activity


def routed_activity(layer: MoELayer, x_TD: Tensor, chosen_TK: Tensor) -> Activity:
    """Activity of the routed experts, each over the tokens that chose it; their numbers reach the host.

    Args:
        layer: whose experts are meant.
        x_TD: tokens ``(T, D)``.
        chosen_TK: experts of every token ``(T, K)``.
    """
    segments = Segments.of(chosen_TK, layer.config.num_experts)
    by_expert = x_TD.index_select(0, segments.token).split(segments.counts.tolist())
    return Activity.stack([layer.experts.activations(rows, expert) for expert, rows in enumerate(by_expert)])


@torch.no_grad()
def measure_plasticity(
    model: UniZeroMTModel,
    observation: Tensor,
    action: Tensor,
    groups: TaskGroups,
    dist: Distributed,
    tau: float = TAU,
) -> dict[str, float]:
    """Dormant units of every module and entropy of every router, from one forward without dropout; waits for the device.

    Collective: one reduction makes the numbers those of the windows of all ranks together. Call it at the run's precision.

    Args:
        model: online network; its mode is the same afterwards, and it counts no expert selection.
        observation: ``(B, S, *observation_shape)``.
        action: ``(B, S−1)`` int64.
        groups: tasks of the B rows.
        dist: process group of the run.
        tau: share of a layer's mean activity up to which a unit is dormant.

    Returns:
        Scalars by tag; what no token went through on any rank is left out.

        - ``plasticity/dormant_ratio/{module}``: dormant units over all units, 0 to 1, after the activation function. Modules:
          ``all``; ``encoder`` and ``encoder/layer{i}``, with channels as units where it is convolutional; ``mlp/layer{l}``,
          or ``moe/layer{l}/shared``, ``moe/layer{l}/routed`` (all routed experts) and ``moe/layer{l}/expert_{e}`` (over the
          tokens that chose it); ``policy_head`` and so on, separate heads each over the rows of their task.
        - ``plasticity/router_entropy/layer{l}``: mean over tokens in nats.

    Source: Sokar et al., "The dormant neuron phenomenon" (arXiv 2302.12902), definition 3.1.
    """
    was_training = model.training
    model.eval()
    try:
        with recording(model) as recorder:
            model(observation, action, groups)
    finally:
        model.train(was_training)
    mine = recorder.activity | {f"entropy of {name}": entropy for name, entropy in recorder.entropy.items()}
    everybody = _over_ranks(mine, dist)
    metrics = {
        f"plasticity/dormant_ratio/{name}": ratio
        for name, ratio in _dormant_ratios({name: everybody[name] for name in recorder.activity}, tau).items()
    }
    for name in recorder.entropy:
        entropy = everybody[f"entropy of {name}"]
        metrics[f"plasticity/router_entropy/{name}"] = (entropy.total / entropy.samples).item()
    return metrics


@contextmanager
def recording(model: UniZeroMTModel) -> Iterator[Recorder]:
    """Hook everything that has units while the context is open."""
    recorder = Recorder()
    activations = (module for module in model.encoder.modules() if isinstance(module, ENCODER_ACTIVATIONS))
    with ExitStack() as hooks:
        for layer, module in enumerate(activations):
            hook = module.register_forward_hook(partial(recorder.encoder, f"encoder/layer{layer}"))
            hooks.callback(hook.remove)
        for layer, block in enumerate(model.world_model.transformer.blocks):
            hook = block.feed_forward.register_forward_pre_hook(partial(recorder.feed_forward, layer))
            hooks.callback(hook.remove)
        for name, head in model.world_model.heads.items():
            hook = head.register_forward_pre_hook(partial(recorder.head, f"{name}_head"))
            hooks.callback(hook.remove)
        yield recorder


def _over_ranks(mine: Mapping[str, Activity], dist: Distributed) -> dict[str, Activity]:
    """Sums over all ranks, on the host. Shapes depend on the model alone, so one flat reduction serves all."""
    tensors = [tensor for activity in mine.values() for tensor in (activity.total, activity.samples)]
    flat = dist.all_reduce_sum_(torch.cat([tensor.flatten() for tensor in tensors])).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    shaped = iter([part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)])
    return {name: Activity(next(shaped), next(shaped)) for name in mine}


def _dormant_ratios(activity: Mapping[str, Activity], tau: float) -> dict[str, float]:
    """Ratios of the modules, of the single routed experts, and of several modules together; those of nothing are left out."""
    by_set = {name: one.dormant_ratios(tau) for name, one in activity.items()}
    ratios = {
        "all": _pooled(by_set, activity, activity),
        "encoder": _pooled(by_set, activity, [name for name in activity if name.startswith("encoder/")]),
    }
    for name, values in by_set.items():
        ratios[name] = _pooled(by_set, activity, [name])
        if name.endswith("/routed"):
            layer = name.removesuffix("/routed")
            ratios |= {f"{layer}/expert_{expert}": value for expert, value in enumerate(values.tolist())}
    return {name: ratio for name, ratio in ratios.items() if ratio == ratio}


def _pooled(by_set: Mapping[str, Tensor], activity: Mapping[str, Activity], names: Iterable[str]) -> float:
    """Dormant units of some modules over all their units, sets that saw nothing aside; NaN where that leaves none."""
    dormant = units = 0.0
    for name in names:
        seen = by_set[name][~by_set[name].isnan()]
        width = activity[name].total.shape[1]
        dormant += width * seen.sum().item()
        units += width * len(seen)
    return dormant / units if units else float("nan")


def _sum_of_absolute(h: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Sum of |h| over ``dim``, in float64: single precision would round differently on one rank and on several."""
    return torch.linalg.vector_norm(h, 1, dim=dim, dtype=torch.float64)


def norms_by_module(names: Sequence[str], norms: Tensor) -> dict[str, float]:
    """Lengths of modules from those of their parameters: root of the sum of squares; waits for the device.

    Args:
        names: of the parameters, as in ``model.named_parameters()``.
        norms: of the weights or the gradients, in the same order ``(P,)``.

    Returns:
        By module: ``encoder``, ``layer{l}.attention``, ``layer{l}.feed_forward``, the heads (``policy_head`` and so on),
        ``embeddings`` (of actions and tasks, registers), and ``rest``, the transformer's norms.

    Raises:
        ValueError: if there are more names than norms, or fewer.
    """
    if norms.shape != (len(names),):
        raise ValueError(f"norms has shape {tuple(norms.shape)} for {len(names)} names; give one norm per parameter")
    squares: dict[str, float] = {}
    for name, norm in zip(names, norms.double().tolist(), strict=True):
        module = _module_of(name)
        squares[module] = squares.get(module, 0.0) + norm * norm
    return {module: square**0.5 for module, square in squares.items()}


@torch.no_grad()
def weight_norms(model: UniZeroMTModel) -> dict[str, float]:
    """Length of every module's parameters, by module as in :func:`norms_by_module`; waits for the device."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return norms_by_module(names, torch.stack(torch._foreach_norm(parameters)))


def _module_of(parameter_name: str) -> str:
    if parameter_name.startswith("encoder."):
        return "encoder"
    if match := BLOCK_PARAMETER.match(parameter_name):
        return f"layer{match[1]}.{match[2]}"
    if match := HEAD_PARAMETER.match(parameter_name):
        return match[1]
    return "embeddings" if EMBEDDING_PARAMETER.match(parameter_name) else "rest"
