"""What an optimizer is told of parameters by their role, and how a target network follows."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lzero import checks
from lzero.config import OptimiserConfig

# Modules of torch whose ``weight`` is the matrix of a linear map or a table of embeddings. Everything else is a bias, the
# scale of a norm, or a vector that is learned as it is (register tokens, positions): weight decay would pull it towards
# zero, which means nothing there.
WITH_MATRIX = (nn.Linear, nn.Conv2d, nn.Embedding)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Optimizer groups: weight decay on matrices alone.

    A module of ours names its matrices in the class attribute ``matrices``; the number of dimensions says nothing: stacked
    biases and register tokens have three.

    Raises:
        ValueError: if ``weight_decay`` is negative, or nothing is trained.
    """
    checks.number("weight_decay", weight_decay, 0.0)
    if not trained(list(model.parameters())):
        raise ValueError(f"model={type(model).__name__} has no parameter that is trained")
    decayed: list[nn.Parameter] = []
    for module in model.modules():
        names = ("weight",) if isinstance(module, WITH_MATRIX) else getattr(module, "matrices", ())
        for name in names:
            decayed.append(getattr(module, name))
    chosen = {id(parameter) for parameter in decayed}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        {"params": trained(decayed), "weight_decay": weight_decay},
        {"params": trained(rest), "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, config: OptimiserConfig, epsilon: float = 1e-8) -> torch.optim.AdamW:
    """AdamW over all parameters that are trained; source: Loshchilov and Hutter (arXiv 1711.05101).

    ``epsilon`` is added to the root of the second moment; torch's default is the default here.
    """
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=epsilon,
        fused=True,
    )


def trained(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those that need a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]


@torch.no_grad()
def ema_update_(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move ``target`` towards ``online`` by ``momentum``, floating buffers included; other buffers are copied.

    Raises:
        ValueError: if ``momentum`` is no share, or the networks differ in shape.
    """
    checks.number("momentum", momentum, 0.0, 1.0)
    for mine, theirs in (
        (list(target.parameters()), list(online.parameters())),
        (list(target.buffers()), list(online.buffers())),
    ):
        if len(mine) != len(theirs):
            raise ValueError(
                f"online has {len(theirs)} tensors: allowed are {len(mine)}, as target"
            )
        floating = []
        for a, b in zip(mine, theirs, strict=True):
            if a.shape != b.shape:
                checks.shape("a tensor of online", b, *a.shape)
            if a.is_floating_point():
                floating.append((a, b))
        if floating:
            torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], momentum)
        for a, b in zip(mine, theirs, strict=True):
            if not a.is_floating_point() and not a.is_complex():
                a.copy_(b)


_steps_of_optimizers = 0


def _count_step(*_: object) -> None:
    global _steps_of_optimizers
    _steps_of_optimizers += 1


register_optimizer_step_post_hook(_count_step)


def weights_version(model: nn.Module) -> tuple[object, ...]:
    """Something that is another thing after every change of parameters or buffers.

    Tensors count the operations that change them, but not those of fused optimizers: the steps of all optimizers are
    counted here. Those that were made in inference mode count nothing: of them no two versions are the same.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        return (object(),)
    return (
        _steps_of_optimizers,
        *((tensor.data_ptr(), tensor._version) for tensor in tensors),
    )
