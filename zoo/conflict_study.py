"""The study of gradient conflict and expert selection, for any domain.

One MoE experiment, its dense twin, and ablations. Four blocks; a MoE block has one shared and eight
routed experts, a dense one a SwiGLU as wide as the two that a token passes: the arms differ in the
mixture alone. The dense blocks with GELU tell what an activation does; until they were an arm of
their own, they were the only dense one, and mixture and activation could not be told apart.

All variants have the same active parameters per token: where the shared or the routed part is left
out, the remaining expert is twice as wide. Without routed experts that is the dense twin again, but
for its width's rounding, measured as a shared expert.
"""

from typing import Any

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings

NAME = "conflict_study"


def conflict_study(
    config: ExperimentConfig, *, moe: bool, interval: int
) -> dict[str, tuple[str, ExperimentConfig]]:
    """Presets of the study: name to (a line of help, config).

    Args:
        config: games, sizes and lengths; blocks and measurements are replaced.
        moe: mixture-of-experts blocks with their ablations, or dense blocks of both kinds.
        interval: updates between two measurements.
    """

    def variant(suffix: str, experts: dict[str, Any], mlp_kind: str = "swiglu") -> ExperimentConfig:
        data = config.model_dump()
        data["exp_name"] += suffix
        # without effect in a mixture, whose config then differs from its twin's in one field
        data["model"] |= {"num_layers": 4, "mlp_kind": mlp_kind}
        data["model"]["moe"] |= {
            "enabled": moe,
            "num_experts": 8,
            "num_shared_experts": 1,
        } | experts
        data["policy"]["gradient_conflict_interval"] = interval
        data["train"]["moe_log_interval"] = interval
        return with_domain_settings(data)

    study = {
        NAME: (
            "conflict study: conflict and expert selection at a close look, 4 blocks",
            variant("", {}),
        )
    }
    if not moe:
        return study | {
            f"{NAME}_gelu": (
                "conflict study with GELU in the dense blocks, of as many parameters",
                variant("_gelu", {}, "gelu"),
            )
        }
    wide = {"hidden_ratio": 2 * config.model.moe.hidden_ratio}
    return study | {
        f"{NAME}_shared_only": (
            "conflict study without routed experts",
            variant("_shared_only", {"num_experts": 0} | wide),
        ),
        f"{NAME}_no_shared": (
            "conflict study without shared experts",
            variant("_no_shared", {"num_shared_experts": 0} | wide),
        ),
    }
