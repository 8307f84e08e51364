"""Policy and value networks with mixtures of experts, for several tasks in one batch.

Where the mixtures are, and how they route, is one section of a config each
(:class:`~lzero.config_mixture.ActorCriticConfig`, :class:`~lzero.config_mixture.MixtureConfig`).

Shape legend: B = observations, C = channels, H = W = side, F = features of a vector observation, A = actions, G = tasks,
U = units of the last hidden layer, X = length of the vector about the gradient.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks
from lzero.config_mixture import ActorCriticConfig
from lzero.nn.mixture import Mixture, MixtureSums, token_shape
from lzero.nn.stacked import (
    ACTIVATIONS,
    HIDDEN_GAIN,
    StackedNetwork,
    orthogonal_columns_,
    shape_after_convolutions,
)

# Gains of the output layers, as PureJaxRL and CleanRL have them: a policy that is nearly uniform at first, values of size 1.
POLICY_GAIN, VALUE_GAIN = 0.01, 1.0


class Network(nn.Module):
    """Layers one after another, some of them mixtures.

    Args:
        config: architecture and sizes; ``architecture`` here is that of this network.
        in_shape: ``(C, H, W)`` for convolutions, ``(F,)`` for dense layers.
        heads: outputs in groups of ``(number, gain)``.
        num_tasks: G.
        channels: of every convolution.
        hidden: widths of the dense hidden layers.
        num_experts: of every mixture.
    """

    def __init__(
        self,
        config: ActorCriticConfig,
        in_shape: tuple[int, ...],
        heads: Sequence[tuple[int, float]],
        num_tasks: int,
        *,
        channels: Sequence[int],
        hidden: Sequence[int],
        num_experts: int,
    ) -> None:
        super().__init__()
        self.config, self.num_tasks, self.num_experts = config, num_tasks, num_experts
        layers: dict[str, nn.Module] = {}
        if config.architecture == "big":
            experts = StackedNetwork(
                in_shape,
                num_experts,
                channels=channels,
                kernel=config.conv_kernel,
                hidden=hidden,
                heads=heads,
                activation=config.activation,
            )
            layers["big"] = Mixture(config.mixture, experts, in_shape, num_tasks)
            self.layers = nn.ModuleDict(layers)
            return
        shape = in_shape
        for index, width in enumerate(channels):
            layers[f"conv_{index}"], shape = self._convolution(shape, width)
        for index, width in enumerate(hidden):
            is_last = index == len(hidden) - 1
            is_mixed = config.architecture == "all" or (config.architecture == "middle" and is_last)
            layers[f"dense_{index}"], shape = self._dense(shape, width, is_mixed)
        layers["final"] = self._final(shape, heads)
        self.layers = nn.ModuleDict(layers)

    def forward(
        self, x: Tensor, task_id: Tensor, extra: Tensor | None
    ) -> tuple[Tensor, dict[str, MixtureSums]]:
        """Outputs ``(B, O)`` of ``(B, *in_shape)``, and the sums of every mixture by the name of its layer."""
        sums = {}
        for name, layer in self.layers.items():
            if isinstance(layer, Mixture):
                x, sums[name] = layer(x, task_id, extra)
            else:
                x = layer(x)
        return x, sums

    def features(self, x: Tensor, task_id: Tensor, extra: Tensor | None) -> Tensor:
        """What the output layer sees, ``(B, U)``."""
        for name, layer in self.layers.items():
            if name == "big" and isinstance(layer, Mixture):
                return layer.features(x, task_id, extra)
            if name == "final":
                break
            x = layer(x, task_id, extra)[0] if isinstance(layer, Mixture) else layer(x)
        return x.flatten(1)

    def _convolution(
        self, shape: tuple[int, ...], channels: int
    ) -> tuple[nn.Module, tuple[int, ...]]:
        kernel = self.config.conv_kernel
        after = shape_after_convolutions(shape, [channels], kernel)
        if self.config.architecture == "all":
            experts = StackedNetwork(
                shape,
                self.num_experts,
                channels=[channels],
                kernel=kernel,
                activation=self.config.activation,
            )
            return Mixture(self.config.mixture, experts, shape, self.num_tasks), after
        convolution = nn.Conv2d(shape[0], channels, kernel)
        nn.init.orthogonal_(convolution.weight, HIDDEN_GAIN)
        nn.init.zeros_(convolution.get_parameter("bias"))
        return nn.Sequential(convolution, ACTIVATIONS[self.config.activation]()), after

    def _dense(
        self, shape: tuple[int, ...], width: int, is_mixed: bool
    ) -> tuple[nn.Module, tuple[int, ...]]:
        if is_mixed:
            _, token = token_shape(shape, self.config.mixture, takes_maps=False)
            experts = StackedNetwork(
                token, self.num_experts, hidden=[width], activation=self.config.activation
            )
            mixture = Mixture(self.config.mixture, experts, shape, self.num_tasks)
            return mixture, mixture.out_shape
        linear = orthogonal_linear(shape, [(width, HIDDEN_GAIN)])
        return nn.Sequential(nn.Flatten(), linear, ACTIVATIONS[self.config.activation]()), (width,)

    def _final(self, shape: tuple[int, ...], heads: Sequence[tuple[int, float]]) -> nn.Module:
        if self.config.architecture not in ("final", "all"):
            return orthogonal_linear(shape, heads)
        experts = StackedNetwork(shape, self.num_experts, heads=heads)
        return Mixture(self.config.mixture, experts, shape, self.num_tasks)


def orthogonal_linear(in_shape: tuple[int, ...], heads: Sequence[tuple[int, float]]) -> nn.Linear:
    """A linear layer that begins as :class:`~lzero.nn.stacked.StackedLinear` does."""
    linear = nn.Linear(torch.Size(in_shape).numel(), sum(size for size, _ in heads))
    orthogonal_columns_(linear.weight.detach().t(), heads)
    nn.init.zeros_(linear.bias)
    return linear


def build_network(
    config: ActorCriticConfig,
    in_shape: tuple[int, ...],
    heads: Sequence[tuple[int, float]],
    num_tasks: int,
) -> Network:
    """A network as the config says; the control ``mixture.wide`` is as wide as makes its parameters those of the mixture.

    In the control ``middle`` the last hidden layer is wider, in ``all`` and ``big`` every hidden layer by the same factor.
    """
    channels = config.conv_channels if config.stem == "conv" else ()
    hidden, mixture = config.hidden, config.mixture
    if config.architecture == "baseline" or not mixture.wide:
        return Network(
            config,
            in_shape,
            heads,
            num_tasks,
            channels=channels,
            hidden=hidden,
            num_experts=mixture.num_experts,
        )

    def widened(last_width: int) -> Network:
        factor = 1.0 if config.architecture == "middle" else last_width / hidden[-1]
        return Network(
            config,
            in_shape,
            heads,
            num_tasks,
            channels=[round(width * factor) for width in channels],
            hidden=[*(round(width * factor) for width in hidden[:-1]), last_width],
            num_experts=1,
        )

    # on the meta device networks have sizes and no numbers
    with torch.device("meta"):
        as_mixture = {"mixture": mixture.model_copy(update={"wide": False})}
        same = config.model_copy(update=as_mixture)
        wanted = parameter_count(build_network(same, in_shape, heads, num_tasks))
        # parameters grow with the width: halve the range that has the first width with at least as many
        low, high = hidden[-1], hidden[-1] * mixture.num_experts
        while parameter_count(widened(high)) < wanted:
            high *= 2
        while low < high:
            middle = (low + high) // 2
            if parameter_count(widened(middle)) < wanted:
                low = middle + 1
            else:
                high = middle
    return widened(low)


def parameter_count(module: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(parameter.numel() for parameter in module.parameters())


class ActorCritic(nn.Module):
    """Logits and values of observations of several tasks, from two networks or from one.

    Args:
        config: sizes and mixtures.
        observation_shape: ``(C, H, W)`` for images, ``(F,)`` for vectors.
        num_actions: A, the same for all tasks: actions that a task lacks are for the caller to mask.
        num_tasks: G.

    Raises:
        ValueError: if convolutions are asked of vectors, pictures are too small for them, or a number is below 1.
    """

    def __init__(
        self,
        config: ActorCriticConfig,
        observation_shape: tuple[int, ...],
        num_actions: int,
        num_tasks: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.observation_shape = checks.sizes("observation_shape", observation_shape)
        self.num_actions = checks.count("num_actions", num_actions)
        self.num_tasks = checks.count("num_tasks", num_tasks)
        tasks = num_tasks if config.task_input else 0
        in_shape: tuple[int, ...]
        if config.stem == "mlp":
            in_shape = (torch.Size(observation_shape).numel() + tasks,)
        elif len(observation_shape) != 3:
            raise ValueError(
                f"stem='conv' needs images (C, H, W), but observations have shape {observation_shape}; use stem='mlp'"
            )
        else:
            in_shape = (observation_shape[0] + tasks, *observation_shape[1:])
        policy, value = (num_actions, POLICY_GAIN), (1, VALUE_GAIN)
        plain = config.model_copy(update={"architecture": "baseline"})
        networks: dict[str, Network] = {}
        if config.share_trunk:
            networks["shared"] = build_network(config, in_shape, [policy, value], num_tasks)
        else:
            for name, head in (("actor", policy), ("critic", value)):
                own = config if config.where in (name, "both") else plain
                networks[name] = build_network(own, in_shape, [head], num_tasks)
        self.networks = nn.ModuleDict(networks)

    def forward(
        self, observation: Tensor, task_id: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, MixtureSums]]:
        """Act and judge.

        Args:
            observation: ``(B, *observation_shape)``, uint8 (scaled to [0, 1] here) or float.
            task_id: ``(B,)`` int64, from 0 to G − 1.
            extra: ``(X,)`` about the gradient of the last update, for routers that see it
                (``mixture.router_gradient``); None for zeros.

        Returns:
            Logits ``(B, A)``, values ``(B,)``, and the sums of every mixture by the names of :meth:`mixtures`.

        Raises:
            TypeError: if observations are neither uint8 nor float, or tasks are no whole numbers.
            ValueError: if shapes differ, or ``extra`` is given and no router sees it.
        """
        x = self._prepare(observation, task_id)
        if extra is not None and not self.config.mixture.router_gradient:
            raise ValueError("extra is given, but mixture.router_gradient=False: allowed is None")
        outputs, sums = {}, {}
        for name, network in self.networks.items():
            outputs[name], own = network(x, task_id, extra)
            for layer, layer_sums in own.items():
                sums[f"{name}/{layer}"] = layer_sums
        if self.config.share_trunk:
            logits, value = outputs["shared"].split([self.num_actions, 1], dim=1)
        else:
            logits, value = outputs["actor"], outputs["critic"]
        return logits, value.squeeze(1), sums

    def features(
        self, observation: Tensor, task_id: Tensor, extra: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What the output layers see, ``(B, U)`` by network (``actor`` and ``critic``, or ``shared``); arguments as of
        :meth:`forward`. Of whole networks as experts it is the mixture of theirs."""
        x = self._prepare(observation, task_id)
        found = {}
        for name, network in self.networks.items():
            assert isinstance(network, Network)
            found[name] = network.features(x, task_id, extra)
        return found

    def mixtures(self) -> dict[str, Mixture]:
        """All mixtures by name, such as ``actor/dense_1``, ``critic/final`` or ``shared/big``."""
        found = {}
        for name, layer in self.layers().items():
            if isinstance(layer, Mixture):
                found[name] = layer
        return found

    def unit_groups(self) -> dict[str, nn.Module]:
        """Modules whose units are watched, by name: mixtures with hidden units, and activation functions."""
        found: dict[str, nn.Module] = {}
        for name, layer in self.layers().items():
            if isinstance(layer, Mixture) and len(layer.experts.layers):
                found[name] = layer
            elif isinstance(layer, nn.Sequential):
                found[name] = layer[-1]
        return found

    def mixture_loss(self, sums: Mapping[str, MixtureSums]) -> Tensor:
        """Regularisation of all mixtures, a scalar: the sum of :meth:`~lzero.nn.mixture.MixtureSums.loss`."""
        loss = next(self.parameters()).new_zeros(())
        for own in sums.values():
            loss = loss + own.loss(self.config.mixture)
        return loss

    def set_progress(self, progress: float) -> None:
        """Tell ``adaptive`` routers the share of training that is done, 0 to 1; no effect on others.

        Raises:
            ValueError: if it is no share.
        """
        for mixture in self.mixtures().values():
            mixture.set_progress(progress)

    def layers(self) -> dict[str, nn.Module]:
        """All layers by network and name, such as ``actor/dense_0``."""
        found: dict[str, nn.Module] = {}
        for name, network in self.networks.items():
            assert isinstance(network, Network)
            for layer_name, layer in network.layers.items():
                found[f"{name}/{layer_name}"] = layer
        return found

    def _prepare(self, observation: Tensor, task_id: Tensor) -> Tensor:
        """Observations as the networks see them: scaled, flattened for dense stems, with the task where that is asked for."""
        checks.instance("observation", observation, Tensor, "a tensor")
        if observation.dtype != torch.uint8 and not observation.is_floating_point():
            raise TypeError(f"observation is {observation.dtype}: allowed are uint8 and floats")
        checks.shape("observation", observation, None, *self.observation_shape)
        checks.shape("task_id", task_id, len(observation))
        if task_id.is_floating_point():
            raise TypeError(f"task_id is {task_id.dtype}: allowed are whole numbers")
        if observation.dtype == torch.uint8:
            observation = observation.float().mul_(1 / 255)
        if self.config.stem == "mlp":
            observation = observation.flatten(1)
        if not self.config.task_input:
            return observation
        task = F.one_hot(task_id, self.num_tasks).to(observation.dtype)
        if self.config.stem == "conv":
            task = task[:, :, None, None].expand(-1, -1, *observation.shape[2:])
        return torch.cat([observation, task], dim=1)
