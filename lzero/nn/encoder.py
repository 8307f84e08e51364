"""Encoders: one observation to one latent.

Shape legend: B = observations, C = channels, H = W = image side, F = features of a vector observation, D = latent width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks
from lzero.config import EncoderConfig
from lzero.nn.trunks import TRUNKS, Trunk

# Frames that a CPU encodes at once (benchmarks/encoder.py): what a layer makes of them stays in the cache until the next
# one reads it.
CHUNK = 128
# Bytes of a batch's largest map from which that pays with gradients too, which keep every map: about what a last-level
# cache holds. Without gradients it always does.
LARGE_MAPS = 32_000_000


SMALLEST_PICTURE = 24  # pixels: a stem of stride 4 leaves a resnet 6x6 places of it


class EncoderKindError(ValueError):
    """An encoder cannot take observations of this shape."""


def fitting_kind(config: EncoderConfig, observation_shape: tuple[int, ...]) -> str:
    """``config.kind``; of ``auto`` the kind for observations ``(C, H, W)`` or ``(F,)``."""
    if config.kind != "auto":
        return config.kind
    if len(observation_shape) != 3:
        return "mlp"
    return "conv" if min(observation_shape[1:]) < SMALLEST_PICTURE else "resnet"


LATENT_NORMS = ("layer_norm", "sim_norm")


class LatentNorm(nn.Module):
    """Final normalisation of latents, of the encoder's as of the predicted ones.

    ``layer_norm`` has no learned scale: a latent loss cannot be lowered by shrinking the latents.
    ``sim_norm`` makes every group of 8 a probability vector (Lavoie et al., arXiv 2204.00616).

    Raises:
        ValueError: if ``kind`` is another.
    """

    GROUP = 8

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in LATENT_NORMS:
            raise ValueError(f"kind={kind!r}: allowed are {', '.join(LATENT_NORMS)}")
        self.kind = kind

    @property
    def full_spread(self) -> float:
        """Standard deviation of a dimension where latents are as different as they can be, dimensions alike."""
        if self.kind == "layer_norm":
            return 1.0
        share = (
            1 / self.GROUP
        )  # of one-hot groups, the variance of a dimension is share · (1 − share)
        return (share * (1 - share)) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(…, D)`` in fp32."""
        x = x.float()
        if self.kind == "layer_norm":
            return F.layer_norm(x, x.shape[-1:])
        if x.shape[-1] % self.GROUP:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: sim_norm needs a multiple of {self.GROUP} at its end"
            )
        return x.unflatten(-1, (-1, self.GROUP)).softmax(dim=-1).flatten(-2)


def joined_windows(observation: Tensor) -> Tensor:
    """Observations ``(B, S, …)`` of windows as ``(B·S, …)``; images stay channels last where they are copied.

    A plain flatten of part of the steps copies them channels first, and the first convolution turns them back in fp32,
    before its forward and again before its backward: 10 ms of a small network's update of 250.
    """
    if observation.ndim != 5:
        return observation.flatten(0, 1)
    return observation.movedim(2, -1).flatten(0, 1).movedim(-1, 1)


def largest_output(trunk: nn.Module, observation_shape: tuple[int, ...]) -> int:
    """Numbers in the largest map that a module inside ``trunk`` makes of one observation."""
    sizes = [1]
    hooks = [
        module.register_forward_hook(lambda module, arguments, output: sizes.append(output.numel()))
        for module in trunk.modules()
    ]
    was_training = trunk.training
    trunk.eval()  # dropout would draw from the random stream of the run
    with torch.no_grad():
        trunk(torch.zeros(1, *observation_shape))
    trunk.train(was_training)
    for hook in hooks:
        hook.remove()
    return max(sizes)


class Encoder(nn.Module):
    """Observation to normalised latent.

    Args:
        config: kind and sizes.
        observation_shape: ``(C, H, W)`` for images, ``(F,)`` for vectors.
        embed_dim: latent width D.
        num_tasks: T.
        latent_norm: ``layer_norm`` or ``sim_norm``.

    Raises:
        ValueError: if the kind does not fit the observation shape, or a number is below 1.
    """

    def __init__(
        self,
        config: EncoderConfig,
        observation_shape: tuple[int, ...],
        embed_dim: int,
        num_tasks: int,
        latent_norm: str,
    ) -> None:
        super().__init__()
        self.observation_shape = checks.sizes("observation_shape", observation_shape)
        checks.count("embed_dim", embed_dim)
        checks.count("num_tasks", num_tasks)
        kind = fitting_kind(config, observation_shape)
        if kind != "mlp" and len(observation_shape) != 3:
            raise EncoderKindError(
                f"encoder.kind={kind!r} needs images (C, H, W), but observations have shape {observation_shape}; "
                "use encoder.kind='mlp' or 'auto'"
            )
        self.trunk: Trunk = TRUNKS[kind](config, observation_shape)
        self.task_vector = (
            nn.Embedding(num_tasks, self.trunk.out_features) if config.task_conditioned else None
        )
        self.project = nn.Linear(self.trunk.out_features, embed_dim)
        self.norm = LatentNorm(latent_norm)
        self.largest_map = largest_output(self.trunk, observation_shape)

    def forward(self, observation: Tensor, task_id: Tensor) -> Tensor:
        """Encode.

        Args:
            observation: ``(B, *observation_shape)``, uint8 (scaled to [0, 1] here) or float.
            task_id: ``(B,)`` int64.

        Returns:
            Latents ``(B, D)`` in fp32.

        Raises:
            TypeError: if observations are no tensor, or neither uint8 nor float.
            ValueError: if they have another shape, or there is not one task for each.
        """
        checks.instance("observation", observation, Tensor, "a tensor")
        if observation.dtype != torch.uint8 and not observation.is_floating_point():
            raise TypeError(f"observation is {observation.dtype}: allowed are uint8 and floats")
        checks.shape("observation", observation, None, *self.observation_shape)
        checks.shape("task_id", task_id, len(observation))
        large = 4 * self.largest_map * len(observation) > LARGE_MAPS or not torch.is_grad_enabled()
        if observation.device.type != "cpu" or len(observation) <= CHUNK or not large:
            return self.norm(self.unnormalised(observation, task_id))
        pairs = zip(observation.split(CHUNK), task_id.split(CHUNK), strict=True)
        return torch.cat([self.norm(self.unnormalised(*pair)) for pair in pairs])

    def unnormalised(self, observation: Tensor, task_id: Tensor) -> Tensor:
        """Latents ``(B, D)`` before the final norm, whose length that norm hides; arguments as of :meth:`forward`."""
        if observation.dtype == torch.uint8:
            observation = observation.float().mul_(1 / 255)
        features = self.trunk(observation)
        if self.task_vector is not None:
            features = features + self.task_vector(task_id)
        return self.project(features)
