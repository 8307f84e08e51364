"""Layers and small networks with E sets of weights, which one batched or grouped product serves.

Shape legend: E = experts, R = rows that every expert is given, C = channels, H = W = side of the maps, U = units,
O = outputs. A suffix names a tensor's shape.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
HIDDEN_GAIN = 2**0.5  # keeps the variance of what passes a ReLU (He et al., arXiv 1502.01852)


def orthogonal_columns_(weight_IO: Tensor, heads: Sequence[tuple[int, float]]) -> None:
    """Fill the columns of each head, ``(number, gain)``, with a matrix of its own (Saxe et al., arXiv 1312.6120)."""
    sizes = [size for size, _ in heads]
    for columns_IO, (_, gain) in zip(weight_IO.split(sizes, dim=1), heads, strict=True):
        orthogonal_IO = torch.empty_like(columns_IO, memory_format=torch.contiguous_format)
        nn.init.orthogonal_(orthogonal_IO, gain)
        with torch.no_grad():
            columns_IO.copy_(orthogonal_IO)


class StackedLinear(nn.Module):
    """E linear maps, orthogonal at first, biases 0.

    Args:
        in_features: width of what comes in.
        heads: outputs in groups of ``(number, gain)``; each group has a matrix of its own at first.
        num_experts: E.

    Raises:
        ValueError: if a number is below 1.
    """

    matrices = ("weight",)

    def __init__(
        self, in_features: int, heads: Sequence[tuple[int, float]], num_experts: int
    ) -> None:
        super().__init__()
        outputs = sum(size for size, _ in heads)
        checks.count("in_features", in_features)
        checks.count("outputs", outputs)
        checks.count("num_experts", num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, in_features, outputs))
        self.bias = nn.Parameter(torch.zeros(num_experts, 1, outputs))
        for weight_IO in self.weight.detach():
            orthogonal_columns_(weight_IO, heads)

    def forward(self, x: Tensor) -> Tensor:
        """``(E, R, …)``, flattened from the third axis on, to ``(E, R, O)``.

        Where all experts are given the same rows (an expanded tensor), they are one wide map of them.
        """
        x = x.flatten(2)
        if x.stride(0) != 0 or len(x) == 1:
            return torch.baddbmm(self.bias, x, self.weight)
        num_experts, _, outputs = self.weight.shape
        wide_IO = self.weight.transpose(0, 1).flatten(1)
        y_RO = torch.addmm(self.bias.flatten(), x[0], wide_IO)
        # in one piece: products of such strides take several times as long
        return y_RO.view(-1, num_experts, outputs).transpose(0, 1).contiguous()


class StackedConv(nn.Module):
    """E convolutions without padding as one grouped convolution, orthogonal at first, biases 0.

    Raises:
        ValueError: if a number is below 1.
    """

    matrices = ("weight",)

    def __init__(self, in_channels: int, channels: int, kernel: int, num_experts: int) -> None:
        super().__init__()
        checks.count("in_channels", in_channels)
        checks.count("channels", channels)
        checks.count("kernel", kernel)
        checks.count("num_experts", num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(num_experts, channels))
        for weight in self.weight.detach():
            nn.init.orthogonal_(weight, HIDDEN_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """``(E, R, C, H, W)`` to ``(E, R, C', H', W')``; the same rows for all experts are not copied."""
        num_experts = groups = len(self.weight)
        if x.stride(0) == 0:
            x, groups = x[0], 1
        else:
            x = x.transpose(0, 1).flatten(1, 2)
        y = F.conv2d(x, self.weight.flatten(0, 1), self.bias.flatten(), groups=groups)
        return y.unflatten(1, (num_experts, -1)).transpose(0, 1)


class StackedNetwork(nn.Module):
    """E networks: hidden layers, each with an activation function, and a linear readout or none.

    A single layer is a network too: one hidden layer without readout, or a readout alone.

    Args:
        in_shape: of a row: ``(C, H, W)`` for convolutions; without them whatever it is, it is flattened.
        num_experts: E.
        channels: of every convolution.
        kernel: side of their kernels.
        hidden: widths of the dense layers.
        heads: outputs of the readout in groups of ``(number, gain)``; empty for none.
        activation: ``relu`` or ``tanh``.

    Raises:
        ValueError: if there is no layer, an unknown activation, maps get smaller than a kernel, or a number is below 1.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_experts: int,
        *,
        channels: Sequence[int] = (),
        kernel: int = 3,
        hidden: Sequence[int] = (),
        heads: Sequence[tuple[int, float]] = (),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if not (channels or hidden or heads):
            raise ValueError("channels, hidden and heads are all empty: allowed is a layer or more")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: allowed are {', '.join(ACTIVATIONS)}")
        self.num_experts, self.takes_maps = num_experts, bool(channels)
        shape = in_shape
        layers: list[nn.Module] = []
        if channels:
            shape = shape_after_convolutions(in_shape, channels, kernel)
            for before, after in pairwise((in_shape[0], *channels)):
                layers.append(StackedConv(before, after, kernel, num_experts))
        for width in hidden:
            layers.append(
                StackedLinear(torch.Size(shape).numel(), [(width, HIDDEN_GAIN)], num_experts)
            )
            shape = (width,)
        self.layers = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[activation]()
        self.feature_shape = shape
        self.readout = (
            StackedLinear(torch.Size(shape).numel(), heads, num_experts) if heads else None
        )
        self.out_shape = (sum(size for size, _ in heads),) if heads else shape

    def hidden(self, x: Tensor) -> Iterator[Tensor]:
        """Hidden units of one layer after another, ``(E, R, U)`` or maps ``(E, R, U, H, W)``, of ``(E, R, *in_shape)``."""
        for layer in self.layers:
            x = self.activation(layer(x))
            yield x

    def features(self, x: Tensor) -> Tensor:
        """What the readout sees, ``(E, R, *feature_shape)``: the last hidden units."""
        features = x
        for units in self.hidden(x):
            features = units
        return features

    def read(self, features: Tensor) -> Tensor:
        """Outputs ``(E, R, *out_shape)`` of :meth:`features`."""
        return features if self.readout is None else self.readout(features)

    def forward(self, x: Tensor) -> Tensor:
        """``(E, R, *in_shape)`` to ``(E, R, *out_shape)``."""
        return self.read(self.features(x))


def shape_after_convolutions(
    in_shape: tuple[int, ...], channels: Sequence[int], kernel: int
) -> tuple[int, int, int]:
    """Maps ``(C, H, W)`` behind convolutions without padding.

    Raises:
        ValueError: if there are no maps, or they get smaller than a kernel.
    """
    if len(in_shape) != 3:
        raise ValueError(f"in_shape={in_shape}: convolutions need maps (C, H, W)")
    loss = len(channels) * (kernel - 1)
    height, width = in_shape[1] - loss, in_shape[2] - loss
    if min(height, width) < 1:
        raise ValueError(
            f"in_shape={in_shape}: {len(channels)} convolutions of {kernel}x{kernel} without padding need maps of at least "
            f"{loss + 1}x{loss + 1}"
        )
    return channels[-1], height, width
