"""Sections for actor-critic networks with mixtures of experts, as the study of PPO on small games trains them.

The study "Mixture of Experts in a Mixture of RL settings" (arXiv 2406.18420) prints no table of settings: what is below is
our choice wherever no other source is named.
"""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from lzero.config_sections import Section


class MixtureConfig(Section):
    """A mixture of experts in place of a layer, or of a whole network."""

    num_experts: PositiveInt = 3
    """Experts of every mixture."""
    routing: Literal["topk", "softmoe", "hardcoded", "expert_choice", "adaptive"] = "softmoe"
    """``topk`` of a learned router; ``softmoe`` mixes tokens into slots (arXiv 2308.00951); ``hardcoded`` by task id;
    ``expert_choice``: experts choose tokens of the whole batch (arXiv 2202.09368), so that a row depends on the others;
    ``adaptive`` goes from all experts to the top k while training."""
    top_k: PositiveInt = 1
    """topk and adaptive: experts per token. expert_choice: experts per token on average."""
    slots: int = Field(0, ge=0)
    """softmoe: slots of every expert; 0 takes as many as a sample has tokens for each expert, rounded, at least 1."""
    tokens: Literal["PerConv", "PerFeat", "PerSamp"] = "PerSamp"
    """How the maps of a sample are cut into tokens (arXiv 2402.08609): ``PerConv`` a token for every place, ``PerFeat``
    one for every map, ``PerSamp`` one in all. Layers that see no maps have one token, as have convolutions and whole
    networks."""
    merge: Literal["concat", "mean"] = "concat"
    """What the next layer sees of a sample's tokens: all of them side by side, or their mean, which forgets places."""
    router_task_id: bool = False
    """The router sees which task a token belongs to, as a one-hot vector beside the token."""
    router_gradient: bool = False
    """The router sees a vector about the gradient of the last update, the same for all tokens; zeros until there is one.
    What it holds is the algorithm's business."""
    gradient_features: PositiveInt = 8
    """router_gradient: length of that vector."""
    entropy_weight: float = 0.0
    """Weight of the router's mean entropy in the loss: above 0 a bonus for undecided routers, below 0 a penalty."""
    wide: bool = False
    """Control (arXiv 2410.01930): one expert, so wide that the network has as many parameters as the mixture has. With
    ``softmoe`` it has the slots of all experts; with ``topk`` there is nothing left to choose, and no router."""
    parseval_weight: float = Field(0.0, ge=0.0)
    """Weight of the penalty on the Gram matrix of the experts' features that keeps its spectrum even (SPHERE, arXiv
    2605.04712)."""
    temperature_start: PositiveFloat = 1.0
    """adaptive: the router's logits are divided by it at the start of training; at 1 a soft mixture."""
    temperature_end: PositiveFloat = 0.1
    """adaptive: temperature from ``anneal_share`` on."""
    anneal_share: float = Field(0.5, gt=0.0, le=1.0)
    """adaptive: share of training after which the temperature has fallen, geometrically, to its end. From there on only the
    top k experts count, with their probabilities at that temperature as gates."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(
                f"mixture.top_k={self.top_k} is more than mixture.num_experts={self.num_experts}; "
                f"use at most {self.num_experts}"
            )
        if self.temperature_end > self.temperature_start:
            raise ValueError(
                f"mixture.temperature_end={self.temperature_end} is above "
                f"mixture.temperature_start={self.temperature_start}: allowed is a temperature that falls"
            )
        if self.wide and self.routing not in ("softmoe", "topk"):
            raise ValueError(
                f"mixture.wide=True with mixture.routing={self.routing!r}: one expert leaves nothing to choose; allowed are "
                "'softmoe', which keeps its slots, and 'topk', which loses its router"
            )
        routerless = self.routing == "hardcoded" or (self.wide and self.routing == "topk")
        for name in ("router_task_id", "router_gradient"):
            if getattr(self, name) and routerless:
                raise ValueError(
                    f"mixture.{name}=True with mixture.routing={self.routing!r} and mixture.wide={self.wide}: there is no "
                    "router that could see it; use False"
                )
        if self.entropy_weight and (self.routing == "hardcoded" or self.wide):
            raise ValueError(
                f"mixture.entropy_weight={self.entropy_weight} with mixture.routing={self.routing!r} and "
                f"mixture.wide={self.wide}: no router decides between experts; use 0"
            )
        return self


class ActorCriticConfig(Section):
    """Policy and value network; both heads are shared by all tasks."""

    stem: Literal["mlp", "conv"] = "mlp"
    """``mlp``: flattened observation and dense layers. ``conv``: convolutions without padding, then dense layers."""
    mlp_hidden: tuple[PositiveInt, ...] = Field((64, 64), min_length=1)
    """mlp: widths of the hidden layers."""
    conv_channels: tuple[PositiveInt, ...] = Field((16,), min_length=1)
    """conv: maps of every convolution."""
    conv_kernel: PositiveInt = 3
    """conv: side of every convolution's kernel."""
    conv_hidden: tuple[PositiveInt, ...] = Field((128,), min_length=1)
    """conv: widths of the dense layers behind the convolutions."""
    activation: Literal["relu", "tanh"] = "relu"
    """Of every hidden layer."""
    architecture: Literal["baseline", "middle", "final", "all", "big"] = "baseline"
    """``baseline`` without a mixture; a mixture in place of the last hidden layer (``middle``), of the output layer
    (``final``), of every layer (``all``), or one whose experts are whole networks (``big``)."""
    where: Literal["actor", "critic", "both"] = "both"
    """Networks that have mixtures."""
    share_trunk: bool = False
    """One network with outputs for policy and value instead of two networks."""
    task_input: bool = False
    """The network sees the task id: one-hot beside a flattened observation, a map of ones among those of a picture."""
    mixture: MixtureConfig = MixtureConfig()
    """The mixtures; without effect in a baseline."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the dense hidden layers."""
        return self.mlp_hidden if self.stem == "mlp" else self.conv_hidden

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.architecture == "baseline":
            return self
        if self.share_trunk and self.where != "both":
            raise ValueError(
                f"where={self.where!r} with share_trunk=True: there is one network; use where='both'"
            )
        if self.mixture.tokens != "PerSamp" and not self.mixes_maps:
            raise ValueError(
                f"mixture.tokens={self.mixture.tokens!r} with stem={self.stem!r}, architecture={self.architecture!r} and "
                f"dense layers {self.hidden}: no mixture sees maps that could be cut; use 'PerSamp', or stem='conv' "
                "with architecture='all', or 'middle' with one width in conv_hidden"
            )
        for name in ("wide", "parseval_weight"):
            if getattr(self.mixture, name) and self.architecture == "final":
                raise ValueError(
                    f"mixture.{name}={getattr(self.mixture, name)} with architecture='final': experts that are output "
                    "layers have no features; use another architecture"
                )
        return self

    @property
    def mixes_maps(self) -> bool:
        """Whether the dense layer behind convolutions is a mixture."""
        if self.stem != "conv":
            return False
        return self.architecture == "all" or (
            self.architecture == "middle" and len(self.conv_hidden) == 1
        )
