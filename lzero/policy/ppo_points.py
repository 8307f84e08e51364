"""What the analysis looks at in an actor-critic: points of gradient conflict, by the names of its networks and layers."""

from lzero.analysis.points import ActivationPoint, MeasuringPoint, ParameterPoint, expert_points
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
            points[f"output/{name}"] = ActivationPoint(layer, "output", 1)
            for part, point in expert_points(layer).items():
                points[f"{part}/{name}"] = point
    return points
