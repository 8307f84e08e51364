"""What the analysis looks at in UniZero: points of gradient conflict, layers with units, modules whose norms are shown."""

import re

from torch import nn

from lzero.analysis.points import ActivationPoint, MeasuringPoint, ParameterPoint, expert_points
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.nn.moe import MoELayer

ENCODER_ACTIVATIONS = (nn.ReLU, nn.GELU)
BLOCK_PARAMETER = re.compile(r"world_model\.transformer\.blocks\.(\d+)\.(attention|feed_forward)\.")
HEAD_PARAMETER = re.compile(r"world_model\.(\w+_head)\.")
EMBEDDING_PARAMETER = re.compile(
    r"world_model\.(action_embedding|task_embedding|join_task|registers)\b"
)


def standard_points(model: UniZeroMTModel) -> dict[str, MeasuringPoint]:
    """The points of the study, by component; a dense block has the same points, but no experts."""
    points: dict[str, MeasuringPoint] = {"encoder": ActivationPoint(model.encoder, "output")}
    for layer, block in enumerate(model.world_model.transformer.blocks):
        points[f"before_moe/layer{layer}"] = ActivationPoint(block.feed_forward, "input")
        points[f"moe_layer/layer{layer}"] = ParameterPoint.of(block.feed_forward)
        if isinstance(block.feed_forward, MoELayer):
            points |= {
                f"{name}/layer{layer}": point
                for name, point in expert_points(block.feed_forward).items()
            }
    # as in the study: gradients of all tokens one after another, and of the last block alone
    last = model.world_model.transformer.blocks[-1].feed_forward
    points["study/encoder"] = ActivationPoint(model.encoder, "output", flat=True)
    points["study/before_moe"] = ActivationPoint(last, "input", flat=True)
    points["transformer"] = ParameterPoint.of(model.world_model.transformer)
    own = {id(parameter) for parameter in model.task_parameters()}
    shared = []
    for parameter in model.encoder.parameters():
        if id(parameter) not in own:
            shared.append((parameter, None))
    points["encoder_parameters"] = ParameterPoint(tuple(shared))
    return points


def unit_groups(model: UniZeroMTModel) -> dict[str, nn.Module]:
    """Modules whose units are watched, by name: ``encoder/layer{i}``, ``mlp/layer{l}`` or ``moe/layer{l}``, heads."""
    activations = [
        module for module in model.encoder.modules() if isinstance(module, ENCODER_ACTIVATIONS)
    ]
    groups: dict[str, nn.Module] = {
        f"encoder/layer{layer}": module for layer, module in enumerate(activations)
    }
    for layer, block in enumerate(model.world_model.transformer.blocks):
        kind = "moe" if isinstance(block.feed_forward, MoELayer) else "mlp"
        groups[f"{kind}/layer{layer}"] = block.feed_forward
    return groups | {f"{name}_head": head for name, head in model.world_model.heads.items()}


def module_of(parameter_name: str) -> str:
    """Module that a parameter's norm is counted to, from its name in ``model.named_parameters()``.

    Returns:
        ``encoder``, ``layer{l}.attention``, ``layer{l}.feed_forward``, a head (``policy_head`` and so on), ``embeddings``
        (of actions and tasks, registers) or ``rest``, the transformer's norms.
    """
    if parameter_name.startswith("encoder."):
        return "encoder"
    if match := BLOCK_PARAMETER.match(parameter_name):
        return f"layer{match[1]}.{match[2]}"
    if match := HEAD_PARAMETER.match(parameter_name):
        return match[1]
    return "embeddings" if EMBEDDING_PARAMETER.match(parameter_name) else "rest"
