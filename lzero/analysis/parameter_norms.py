"""Lengths of weights and gradients, and how far a target network is behind.

Shape legend: P = parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lzero import checks


def norms_by_module(modules: Sequence[str], norms: Tensor) -> dict[str, float]:
    """Lengths of modules from those of their parameters: root of the sum of squares; waits for the
    device.

    Args:
        modules: name of the module that every parameter belongs to.
        norms: of the weights or the gradients, in the same order ``(P,)``.

    Raises:
        TypeError: if ``norms`` is no tensor.
        ValueError: if there are more names than norms, or fewer.
    """
    checks.instance("norms", norms, Tensor, "a tensor (P,)")
    if norms.shape != (len(modules),):
        raise ValueError(
            f"norms has shape {tuple(norms.shape)} for {len(modules)} names; give one norm per "
            "parameter"
        )
    squares: dict[str, float] = {}
    for module, norm in zip(modules, norms.double().tolist(), strict=True):
        squares[module] = squares.get(module, 0.0) + norm * norm
    return {module: square**0.5 for module, square in squares.items()}


@torch.no_grad()
def parameter_norms(model: nn.Module) -> Tensor:
    """Length of every parameter ``(P,)``, in the order of ``model.parameters()``.

    Raises:
        ValueError: if there are none.
    """
    parameters: list[Tensor] = list(model.parameters())
    if not parameters:
        raise ValueError(f"model={type(model).__name__} has no parameters")
    return torch.stack(torch._foreach_norm(parameters))


@torch.no_grad()
def parameter_lag(online: nn.Module, target: nn.Module) -> Tensor:
    """How far the target network is behind: ‖θ − θ'‖ / ‖θ‖, a scalar.

    Raises:
        ValueError: if the target has other parameters.
    """
    mine: list[Tensor] = list(online.parameters())
    theirs: list[Tensor] = list(target.parameters())
    if len(mine) != len(theirs):
        raise ValueError(f"target has {len(theirs)} parameters: allowed are {len(mine)}")
    for one, other in zip(mine, theirs, strict=True):
        checks.shape("a parameter of target", other, *one.shape)
    distance = torch.stack(torch._foreach_norm(torch._foreach_sub(mine, theirs))).norm()
    return distance / torch.stack(torch._foreach_norm(mine)).norm()
