"""Trunks of encoders: features of one observation, before they become a latent.

Shape legend: B = observations, C = channels, H = W = image side, P = patches.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from lzero.config import EncoderConfig
from lzero.nn.attention import SelfAttention

M = TypeVar("M", bound=nn.Module)


def channels_last(module: M) -> M:
    """``module`` with weights in the memory order in which frames come, channels last."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm and a skip connection; ``stride`` 2 halves the resolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(channels // 8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(channels // 8, channels)
        matches = stride == 1 and in_channels == channels
        self.skip = (
            nn.Identity()
            if matches
            else nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
        )
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H/stride, W/stride)``."""
        y = self.relu1(self.norm1(self.conv1(x)))
        return self.relu2(self.norm2(self.conv2(y)) + self.skip(x))


class ResNetTrunk(nn.Module):
    """Convolutional features. Group norm, not batch norm: a frame's latent never depends on its batch or rank."""

    def __init__(self, config: EncoderConfig, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = observation_shape
        kernel = max(3, config.stem_stride)
        padding = (kernel - 1) // 2 if config.stem_stride < 4 else 0
        first, *_ = config.widths
        stem = [
            nn.Conv2d(channels, first, kernel, config.stem_stride, padding, bias=False),
            nn.GroupNorm(first // 8, first),
        ]
        blocks: list[nn.Module] = []
        previous = first
        for stage, stage_width in enumerate(config.widths):
            for block in range(config.blocks_per_stage):
                blocks.append(
                    ResidualBlock(previous, stage_width, stride=2 if stage and not block else 1)
                )
                previous = stage_width
        self.layers = channels_last(
            nn.Sequential(*stem, nn.ReLU(inplace=True), *blocks, nn.Flatten())
        )
        with torch.no_grad():
            self.out_features = self.layers(torch.zeros(1, channels, height, width)).shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to ``(B, out_features)``."""
        return self.layers(x)


class LayerNormBlock(nn.Module):
    """Residual block as LightZero's, with layer norm over channels and places, and GELU; ``stride`` 2 halves the resolution.

    Args:
        in_channels: C.
        channels: C'.
        side: height and width of what comes out.
        stride: of the first convolution and, where it is 2, of one on the way past.
    """

    def __init__(self, in_channels: int, channels: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.LayerNorm((channels, side, side))
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.LayerNorm((channels, side, side))
        self.skip = (
            nn.Identity()
            if stride == 1
            else nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        )
        self.gelu1, self.gelu2 = nn.GELU(approximate="tanh"), nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H/stride, W/stride)``."""
        y = self.gelu1(self.norm1(self.conv1(x)))
        return self.gelu2(self.norm2(self.conv2(y)) + self.skip(x))


class LightZeroTrunk(nn.Module):
    """The residual network of LightZero's multi-task UniZero for 64x64 pictures: 64 channels, 2 residual blocks at the end.

    145 MFLOP a frame. It is here to compare the two libraries at equal work.
    Source: opendilab/LightZero, ``lzero/model/common.py`` (``RepresentationNetworkUniZero`` with ``norm_type='LN'``).
    """

    CHANNELS, BLOCKS = 64, 2

    def __init__(self, config: EncoderConfig, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = observation_shape
        if height != width or height % 8:
            raise ValueError(
                f"encoder.kind='lightzero' needs square pictures with a side divisible by 8, but they are {height}x{width}; "
                "use encoder.kind='resnet'"
            )
        full, half, side = self.CHANNELS, self.CHANNELS // 2, height // 2
        self.layers = nn.Sequential(
            nn.Conv2d(channels, half, 3, stride=2, padding=1, bias=False),
            nn.LayerNorm((half, side, side)),
            nn.GELU(approximate="tanh"),
            LayerNormBlock(half, half, side),
            LayerNormBlock(half, full, side // 2, stride=2),
            LayerNormBlock(full, full, side // 2),
            nn.AvgPool2d(3, stride=2, padding=1),
            LayerNormBlock(full, full, side // 4),
            *(LayerNormBlock(full, full, side // 4) for _ in range(self.BLOCKS)),
            nn.Flatten(),
        )
        self.out_features = full * (side // 4) ** 2

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to ``(B, out_features)``."""
        return self.layers(x.contiguous())  # layer norm over places wants channels first


class NatureTrunk(nn.Module):
    """Three convolutions of 8x8, 4x4 and 3x3 places with strides 4, 2 and 1 (DQN, Mnih et al. 2015): few and small maps,
    nothing normalised between them.
    """

    SMALLEST = 36  # side of a picture that leaves one place for the last layer

    def __init__(self, config: EncoderConfig, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = observation_shape
        if min(height, width) < self.SMALLEST:
            raise ValueError(
                f"encoder.kind='nature' needs pictures of at least {self.SMALLEST}x{self.SMALLEST}, but they are "
                f"{height}x{width}; use encoder.kind='conv'"
            )
        first, second, third = config.widths
        self.layers = channels_last(
            nn.Sequential(
                nn.Conv2d(channels, first, 8, stride=4),
                nn.ReLU(inplace=True),
                nn.Conv2d(first, second, 4, stride=2),
                nn.ReLU(inplace=True),
                nn.Conv2d(second, third, 3),
                nn.ReLU(inplace=True),
                nn.Flatten(),
            )
        )
        with torch.no_grad():
            self.out_features = self.layers(torch.zeros(1, channels, height, width)).shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to ``(B, out_features)``."""
        return self.layers(x)


class ConvTrunk(nn.Module):
    """3x3 convolutions at full resolution: features of small grids, where a cell is an object."""

    def __init__(self, config: EncoderConfig, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = observation_shape
        layers: list[nn.Module] = []
        for previous, stage_width in zip((channels, *config.widths), config.widths, strict=False):
            layers += [nn.Conv2d(previous, stage_width, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = channels_last(nn.Sequential(*layers, nn.Flatten()))
        self.out_features = config.widths[-1] * height * width

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to ``(B, out_features)``."""
        return self.layers(x)


class ViTBlock(nn.Module):
    """Pre-norm transformer block over patches."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, P, width)`` to the same shape."""
        x = x + self.attention(self.norm1(x), rotation=None, mask=None)
        return x + self.mlp(self.norm2(x))


class ViTTrunk(nn.Module):
    """Vision transformer; its feature is the CLS token (Dosovitskiy et al., arXiv 2010.11929)."""

    def __init__(self, config: EncoderConfig, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = observation_shape
        if height % config.patch_size or width % config.patch_size:
            raise ValueError(
                f"encoder.patch_size={config.patch_size} does not divide images of {height}x{width}; use a divisor of both"
            )
        patches = (height // config.patch_size) * (width // config.patch_size)
        dim = config.vit_width
        self.patchify = channels_last(
            nn.Conv2d(channels, dim, config.patch_size, config.patch_size)
        )
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, patches + 1, dim))
        self.blocks = nn.Sequential(
            *(ViTBlock(dim, config.vit_heads, config.dropout) for _ in range(config.vit_layers))
        )
        self.norm = nn.LayerNorm(dim)
        self.out_features = dim

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to ``(B, vit_width)``."""
        patches = self.patchify(x).flatten(2).transpose(1, 2)
        tokens = (
            torch.cat([self.cls.expand(len(x), -1, -1).to(patches.dtype), patches], dim=1)
            + self.position
        )
        return self.norm(self.blocks(tokens)[:, 0])


class MLPTrunk(nn.Module):
    """Fully connected features of a flattened observation."""

    def __init__(self, config: EncoderConfig, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        widths = [int(torch.Size(observation_shape).numel()), *config.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in zip(widths, widths[1:], strict=False):
            layers += [
                nn.Linear(fan_in, fan_out),
                nn.LayerNorm(fan_out),
                nn.GELU(approximate="tanh"),
            ]
        self.layers = nn.Sequential(*layers)
        self.out_features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Observations ``(B, *shape)`` to ``(B, out_features)``."""
        return self.layers(x)


Trunk = ResNetTrunk | NatureTrunk | ConvTrunk | ViTTrunk | MLPTrunk | LightZeroTrunk
TRUNKS: dict[str, type[Trunk]] = {
    "resnet": ResNetTrunk,
    "nature": NatureTrunk,
    "conv": ConvTrunk,
    "vit": ViTTrunk,
    "mlp": MLPTrunk,
    "lightzero": LightZeroTrunk,
}
