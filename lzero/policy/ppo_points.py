"""What the analysis looks at in an actor-critic: points of gradient conflict, by the names of its networks and layers."""

from torch import nn

from lzero.analysis.points import ActivationPoint, MeasuringPoint, ParameterPoint
from lzero.model.actor_critic import ActorCritic
from lzero.nn.mixture import Mixture


def measuring_points(model: ActorCritic) -> dict[str, MeasuringPoint]:
    """Points of gradient conflict, by component.

    For every network (``actor``, ``critic``, or ``shared``) its parameters together, and those of every layer; of a mixture
    also those of each expert and of the router, and what the mixture lets out.
    """
    points: dict[str, MeasuringPoint] = {}
    for name, network in model.networks.items():
        points[name] = ParameterPoint.of(network)
    for name, layer in model.layers().items():
        if any(True for _ in layer.parameters()):
            points[f"layer/{name}"] = ParameterPoint.of(layer)
        if isinstance(layer, Mixture):
            points |= _of_mixture(name, layer)
    return points


def _of_mixture(name: str, mixture: Mixture) -> dict[str, MeasuringPoint]:
    points: dict[str, MeasuringPoint] = {f"output/{name}": ActivationPoint(mixture, "output", 1)}
    stacks: list[nn.Parameter] = list(mixture.experts.parameters())
    for expert in range(mixture.num_experts):
        points[f"expert_{expert}/{name}"] = ParameterPoint(
            tuple((stack, expert) for stack in stacks)
        )
    if mixture.router is not None:
        points[f"router/{name}"] = ParameterPoint.of(mixture.router)
    return points
