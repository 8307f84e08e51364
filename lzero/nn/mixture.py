"""A mixture of any stack of experts, with several ways to route, behind one forward.

A sample is cut into tokens (Obando-Ceron et al., arXiv 2402.08609), every token sees a weighted sum of experts, and the tokens'
outputs are put together again. What the world model's mixture is made of serves here too: router, counting, the padded path.

Shape legend: R = samples, N = tokens of a sample, T = R·N tokens, D = width of what a router sees of one, E = experts, K =
experts per token, C = tokens per expert, P = (token, expert) pairs, S = slots, G = tasks, X = length of the vector about the
gradient, U = units. A suffix names a tensor's shape.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks
from lzero.config_mixture import MixtureConfig
from lzero.nn.moe import Router
from lzero.nn.moe_paths import Segments, run_padded
from lzero.nn.routing import (
    Routing,
    count_selections_,
    entropies,
    experts_choose,
    hardcoded_experts,
    tokens_see_all_or_top_k,
    tokens_see_chosen,
)
from lzero.nn.softmoe import SlotRouter, SlotWeights
from lzero.nn.stacked import StackedNetwork


@dataclass(frozen=True)
class MixtureSums:
    """What a forward tells of its router, added up over tokens; with gradients.

    Attributes:
        entropy: of the router's probabilities, by task ``(G,)`` in nats; 0 without a router.
        scores: the probabilities themselves ``(G, E)``; without a router the gates.
        tokens: number of tokens by task ``(G,)``.
        parseval: :func:`parseval_penalty` of this forward's tokens, a scalar; None where it has no weight. It is that of the
            tokens together: the penalties of parts of a batch do not add up to it.
    """

    entropy: Tensor
    scores: Tensor
    tokens: Tensor
    parseval: Tensor | None

    def mean_entropy(self) -> Tensor:
        """Mean entropy by task ``(G,)`` in nats; NaN for a task without tokens."""
        return self.entropy / self.tokens

    def loss(self, config: MixtureConfig) -> Tensor:
        """Regularisation of this mixture, a scalar: entropy bonus or penalty and Parseval penalty, with their weights."""
        loss = -config.entropy_weight * self.entropy.sum() / self.tokens.sum()
        return loss if self.parseval is None else loss + config.parseval_weight * self.parseval


@dataclass(frozen=True)
class MixtureUnits:
    """Hidden units of a mixture, for what looks at them.

    Attributes:
        layers: of every hidden layer ``(E, T, U)`` or maps ``(E, T, U, H, W)``; with slots ``R·S`` in place of T.
        seen: which of these rows really pass an expert ``(E, T)``.
        entropy: of the router for every token ``(T,)`` in nats; None without a router.
    """

    layers: tuple[Tensor, ...]
    seen: Tensor
    entropy: Tensor | None


@dataclass(frozen=True)
class Flow:
    """A batch on its way through a mixture.

    Attributes:
        task: of every token ``(T,)``.
        tokens: ``(T, *token_shape)``.
        rows: what every expert is given: slots ``(E, R·S, *token_shape)``, or all tokens ``(E, T, *token_shape)``.
        routing: of the tokens.
        slots: weights between tokens and slots; None without slots.
    """

    task: Tensor
    tokens: Tensor
    rows: Tensor
    routing: Routing
    slots: SlotWeights | None

    def mix(self, y_E: Tensor) -> Tensor:
        """Every token's sum over experts ``(T, …)``, from what experts make of their rows ``(E, …)``."""
        if self.slots is None:
            # a product of T tiny matrices takes longer than E multiplications of whole tensors
            weights_ET = self.routing.weights.t().to(y_E.dtype)
            return (y_E * weights_ET.view(*weights_ET.shape, *[1] * (y_E.ndim - 2))).sum(dim=0)
        return self.slots.mix(y_E.flatten(2)).flatten(0, 1).unflatten(1, y_E.shape[2:])

    def by_expert(self, y_E: Tensor) -> Tensor:
        """The terms of :meth:`mix` by expert ``(T, E, …)``."""
        if self.slots is None:
            weights_TE = self.routing.weights.to(y_E.dtype)
            return y_E.movedim(0, 1) * weights_TE.view(*weights_TE.shape, *[1] * (y_E.ndim - 2))
        flat_TEO = self.slots.mix_by_expert(y_E.flatten(2)).flatten(0, 1)
        return flat_TEO.unflatten(2, y_E.shape[2:])


class Mixture(nn.Module):
    """A mixture of experts.

    Rows of a batch do not depend on each other, but for ``expert_choice``, where experts choose among all tokens of the batch;
    a token that none of them chooses gets zeros.

    Args:
        config: routing, tokens, regularisation.
        experts: E networks side by side, made for tokens of :func:`token_shape`; one alone is the control ``config.wide``.
        in_shape: of a sample, ``(C, H, W)`` or ``(D,)``.
        num_tasks: G; ``hardcoded`` routing gives each task its own experts (:func:`~lzero.nn.moe.hardcoded_experts`).

    Raises:
        ValueError: if ``num_tasks`` is below 1, or there are other experts than the config says.
    """

    experts_of_task: Tensor
    selection_counts: Tensor
    temperature: Tensor
    is_hard: Tensor

    def __init__(
        self,
        config: MixtureConfig,
        experts: StackedNetwork,
        in_shape: tuple[int, ...],
        num_tasks: int,
    ) -> None:
        super().__init__()
        self.num_experts = experts.num_experts
        expected = 1 if config.wide else config.num_experts
        if self.num_experts != expected:
            raise ValueError(f"experts are {self.num_experts}: the config says {expected}")
        self.config, self.experts = config, experts
        self.in_shape = checks.sizes("in_shape", in_shape)
        self.num_tasks = checks.count("num_tasks", num_tasks)
        self.num_tokens, self.token_shape = token_shape(in_shape, config, experts.takes_maps)
        width = math.prod(self.token_shape)
        width += num_tasks if config.router_task_id else 0
        width += config.gradient_features if config.router_gradient else 0
        self.router: Router | SlotRouter | None = None
        if config.routing == "softmoe":
            slots = config.slots or max(1, round(self.num_tokens / config.num_experts))
            # the wide expert has the slots of all those that it stands for
            slots *= config.num_experts // self.num_experts
            self.router = SlotRouter(width, self.num_experts, slots)
        elif config.routing != "hardcoded" and self.num_experts > 1:
            self.router = Router(width, self.num_experts, config.top_k)
        if config.routing == "hardcoded":
            experts_of_task = hardcoded_experts(num_tasks, config)
            self.register_buffer("experts_of_task", experts_of_task, persistent=False)
        if config.routing == "adaptive":
            self.register_buffer("temperature", torch.tensor(config.temperature_start))
            self.register_buffer("is_hard", torch.tensor(False))
        counts = torch.zeros(num_tasks, self.num_experts, dtype=torch.int64)
        self.register_buffer("selection_counts", counts, persistent=False)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of what comes out for a sample."""
        first, *rest = self.experts.out_shape
        tokens = 1 if self.config.merge == "mean" else self.num_tokens
        return (tokens * first, *rest)

    def set_progress(self, progress: float) -> None:
        """Set the temperature of ``adaptive`` routing for the share of training that is done; no effect on other routing.

        Raises:
            ValueError: if it is no share.
        """
        config, progress = self.config, checks.number("progress", progress, 0.0, 1.0)
        if config.routing != "adaptive":
            return
        share = min(1.0, progress / config.anneal_share)
        fall = config.temperature_end / config.temperature_start
        self.temperature.fill_(config.temperature_start * fall**share)
        self.is_hard.fill_(share == 1.0)

    def forward(
        self, x: Tensor, task_id: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, MixtureSums]:
        """Mix.

        Args:
            x: samples ``(R, *in_shape)``.
            task_id: ``(R,)`` int64 task of each sample.
            extra: ``(X,)`` about the gradient of the last update, for a router that sees it; None for zeros.

        Returns:
            ``(R, *out_shape)`` and sums over the tokens.

        Raises:
            TypeError: if tasks are no whole numbers.
            ValueError: if shapes differ, or ``extra`` is given to a router that sees none.
        """
        flow = self._begin(x, task_id, extra)
        features = None
        if self._is_penalised():
            h = self.experts.features(flow.rows)
            y, features = flow.mix(self.experts.read(h)), flow.by_expert(h)
        else:
            y = self._run(flow)
        if self.training:
            self._count_(flow)
        return self._merge(y), self._sums(flow, features)

    def features(self, x: Tensor, task_id: Tensor, extra: Tensor | None = None) -> Tensor:
        """What the readouts of the experts see, mixed as their outputs are: ``(R, …)``, flattened; arguments as of
        :meth:`forward`."""
        flow = self._begin(x, task_id, extra)
        return self._merge(flow.mix(self.experts.features(flow.rows))).flatten(1)

    def units(self, x: Tensor, task_id: Tensor, extra: Tensor | None = None) -> MixtureUnits:
        """Hidden units of every expert, also for tokens that it does not see; arguments as of :meth:`forward`."""
        flow = self._begin(x, task_id, extra)
        seen_ET = flow.routing.weights.t() > 0
        if flow.slots is not None:  # whatever is in a slot, its expert sees
            seen_ET = torch.ones(flow.rows.shape[:2], dtype=torch.bool, device=x.device)
        log_scores_TE = flow.routing.log_scores
        entropy_T = None if log_scores_TE is None else entropies(log_scores_TE)
        return MixtureUnits(tuple(self.experts.hidden(flow.rows)), seen_ET, entropy_T)

    def _begin(self, x: Tensor, task_id: Tensor, extra: Tensor | None) -> Flow:
        """Check and cut samples, and route their tokens."""
        self._check(x, task_id, extra)
        x_RN, task_T = self._cut(x), task_id.repeat_interleave(self.num_tokens)
        seen_RND, x_T = self._seen_by_router(x_RN, task_id, extra), x_RN.flatten(0, 1)
        if isinstance(self.router, SlotRouter):
            slots = self.router(seen_RND)
            log_scores_TE = slots.log_experts.flatten(0, 1)
            largest_T1 = log_scores_TE.argmax(dim=1, keepdim=True)
            routing = Routing(log_scores_TE.exp(), largest_T1, log_scores=log_scores_TE)
            if self.num_tokens == 1:  # every slot holds the sample's only token
                rows = x_T.expand(self.num_experts, *x_T.shape)
                return Flow(task_T, x_T, rows, routing, None)
            rows = slots.fill(x_RN.flatten(2)).unflatten(2, self.token_shape)
            return Flow(task_T, x_T, rows, routing, slots)
        routing = self.route(seen_RND.flatten(0, 1), task_T)
        return Flow(task_T, x_T, x_T.expand(self.num_experts, *x_T.shape), routing, None)

    def route(self, seen_TD: Tensor, task_T: Tensor) -> Routing:
        """Routing of tokens, of which the router sees ``(T, D)``; not for slots."""
        config = self.config
        if isinstance(self.router, Router):
            if config.routing == "topk":
                gates_TK, chosen_TK, _, logits_TE = self.router(seen_TD)
                return tokens_see_chosen(gates_TK, chosen_TK, self.num_experts, logits_TE)
            logits_TE = self.router.logits(seen_TD)
            if config.routing == "expert_choice":
                return experts_choose(logits_TE, config.top_k)
            return tokens_see_all_or_top_k(logits_TE, config.top_k, self.temperature, self.is_hard)
        if config.routing == "hardcoded":
            chosen_TK = self.experts_of_task.index_select(0, task_T)
        else:  # there is one expert
            chosen_TK = torch.zeros_like(task_T)[:, None]
        gates_TK = torch.full(chosen_TK.shape, 1 / chosen_TK.shape[1], device=seen_TD.device)
        return tokens_see_chosen(gates_TK, chosen_TK, self.num_experts)

    def _run(self, flow: Flow) -> Tensor:
        """Outputs ``(T, *out_shape)``, with as little work as goes without a host sync."""
        x_T, routing = flow.tokens, flow.routing
        if routing.tokens is not None:
            token_P = routing.tokens.flatten()
            y_EC = self.experts(x_T.index_select(0, token_P).unflatten(0, routing.tokens.shape))
            weights_EC = routing.weights.t().gather(1, routing.tokens).to(y_EC.dtype)
            y_P = (y_EC * weights_EC.view(*weights_EC.shape, *[1] * (y_EC.ndim - 2))).flatten(0, 1)
            return y_P.new_zeros(len(x_T), *y_P.shape[1:]).index_add(0, token_P, y_P)
        gates_TK, chosen_TK = routing.gates, routing.chosen
        if gates_TK is not None and chosen_TK is not None and counts_on_host(x_T):
            if gates_TK.shape[1] < self.num_experts:
                segments = Segments.of(chosen_TK, self.num_experts)
                return run_padded(x_T, gates_TK, chosen_TK, self.experts, segments)
        return flow.mix(self.experts(flow.rows))

    def _check(self, x: Tensor, task_id: Tensor, extra: Tensor | None) -> None:
        checks.shape("x", x, None, *self.in_shape)
        checks.shape("task_id", task_id, len(x))
        if task_id.is_floating_point():
            raise TypeError(f"task_id is {task_id.dtype}: allowed are whole numbers")
        if extra is None:
            return
        if not self.config.router_gradient:
            raise ValueError("extra is given, but mixture.router_gradient=False: allowed is None")
        checks.shape("extra", extra, self.config.gradient_features)

    def _cut(self, x: Tensor) -> Tensor:
        """Samples ``(R, *in_shape)`` as tokens ``(R, N, *token_shape)``."""
        if self.num_tokens == 1 and self.token_shape == self.in_shape:
            return x.unsqueeze(1)
        maps = x.flatten(2)  # (R, C, H·W)
        return maps if self.config.tokens == "PerFeat" else maps.transpose(1, 2)

    def _merge(self, y_T: Tensor) -> Tensor:
        """Outputs of tokens ``(T, …)`` as those of samples ``(R, *out_shape)``."""
        y_RN = y_T.unflatten(0, (-1, self.num_tokens))
        return y_RN.mean(dim=1) if self.config.merge == "mean" else y_RN.flatten(1, 2)

    def _seen_by_router(self, x_RN: Tensor, task_id: Tensor, extra: Tensor | None) -> Tensor:
        """Flat tokens and what else the router sees ``(R, N, D)``."""
        parts = [x_RN.flatten(2)]
        over_tokens = (*parts[0].shape[:2], -1)
        if self.config.router_task_id:
            task = F.one_hot(task_id, self.num_tasks).to(x_RN.dtype)
            parts.append(task[:, None].expand(over_tokens))
        if self.config.router_gradient:
            about = x_RN.new_zeros(self.config.gradient_features) if extra is None else extra
            parts.append(about.to(x_RN.dtype).expand(over_tokens))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _is_penalised(self) -> bool:
        """Whether the features of the experts are wanted; output layers have none."""
        return self.config.parseval_weight > 0 and len(self.experts.layers) > 0

    def _count_(self, flow: Flow) -> None:
        chosen_TK, tokens_EC = flow.routing.chosen, flow.routing.tokens
        if chosen_TK is not None:
            count_selections_(self.selection_counts, flow.task, chosen_TK)
        elif tokens_EC is not None:
            expert_E = torch.arange(self.num_experts, device=tokens_EC.device)
            expert_P1 = expert_E[:, None].expand_as(tokens_EC).reshape(-1, 1)
            count_selections_(self.selection_counts, flow.task[tokens_EC.flatten()], expert_P1)

    def _sums(self, flow: Flow, features: Tensor | None) -> MixtureSums:
        log_scores_TE, scores_TE = flow.routing.log_scores, flow.routing.weights
        entropy_T = scores_TE.new_zeros(len(scores_TE))
        if log_scores_TE is not None:
            scores_TE, entropy_T = log_scores_TE.exp(), entropies(log_scores_TE)
        nothing_G = scores_TE.new_zeros(self.num_tasks)
        nothing_GE = scores_TE.new_zeros(self.num_tasks, self.num_experts)
        return MixtureSums(
            entropy=nothing_G.index_add(0, flow.task, entropy_T),
            scores=nothing_GE.index_add(0, flow.task, scores_TE),
            tokens=nothing_G.index_add(0, flow.task, torch.ones_like(entropy_T)),
            parseval=None if features is None else parseval_penalty(features),
        )


def token_shape(
    in_shape: tuple[int, ...], config: MixtureConfig, takes_maps: bool
) -> tuple[int, tuple[int, ...]]:
    """Number of tokens N and shape of one, for samples of ``in_shape``.

    Vectors are one token, and so are maps where experts take them as maps: a convolution needs its neighbours.
    """
    if len(in_shape) != 3 or takes_maps or config.tokens == "PerSamp":
        return 1, in_shape
    channels, height, width = in_shape
    places = height * width
    return (places, (channels,)) if config.tokens == "PerConv" else (channels, (places,))


def counts_on_host(x: Tensor) -> bool:
    """Whether the rows of experts can be counted for free; on an accelerator the host would wait for the numbers."""
    return x.device.type == "cpu"


def parseval_penalty(features: Tensor) -> Tensor:
    """How uneven the spectrum of the experts' features is, a scalar.

    Args:
        features: of all experts, times their weights ``(T, E, U)``; of maps ``(T, E, U, H, W)`` places are samples.

    With Φ ``(T, m)``, the experts' features side by side, and A = ΦᵀΦ / T, it is ‖A − tr(A)/m I‖² = ‖A‖² − tr(A)²/m, which is 0
    where all eigenvalues of A are the same. Source: SPHERE (arXiv 2605.04712).
    """
    phi = features.flatten(3).movedim(-1, 1) if features.ndim > 3 else features
    phi = phi.flatten(-2).flatten(0, -2)
    gram = phi.t() @ phi / len(phi)
    return gram.square().sum() - gram.trace().square() / len(gram)
