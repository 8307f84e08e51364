"""Controls of the gradient-conflict instruments: experiments whose answer is known before they run.

In all of them heads are shared, no task is embedded and one step of context is seen, so that two
games that show the same pictures cannot be told apart: whatever the tasks are, the network is one
function for both. One block, not the study's four: each block looks back from where the one before
has looked back, and with two of them the paddle's motion shows which game is played.

``control_conflict`` asks this function for opposite moves, ``control_same`` asks it twice for the
same, ``control_routing`` lets hardcoded experts tell the tasks apart.
"""

from typing import Any

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings

INTERVAL = 10
"""Updates between two measurements: 120 of them in a run, where the study has 24."""


def controls(config: ExperimentConfig, *, moe: bool) -> dict[str, tuple[str, ExperimentConfig]]:
    """Presets of the controls: name to (a line of help, config).

    Args:
        config: sizes and lengths, those of the study; games, blocks and heads are replaced.
        moe: mixture-of-experts blocks, or the study's dense twin, which has no experts to route.
    """

    def control(
        name: str, games: tuple[str, str], experts: dict[str, Any] | None = None
    ) -> ExperimentConfig:
        data = config.model_dump()
        data["exp_name"] = f"{config.exp_name}_{name}_{'moe' if moe else 'dense'}"
        data["env"]["games"] = games
        data["model"] |= {"num_layers": 1, "context_steps": 1, "mlp_kind": "swiglu"}
        data["model"] |= {"share_head": True, "task_embedding": "none"}
        data["model"]["moe"] |= {"enabled": moe} | (experts or {})
        data["policy"]["gradient_conflict_interval"] = INTERVAL
        return with_domain_settings(data)

    opposite = ("Catch", "MirroredCatch")
    found = {
        "control_conflict": (
            "positive control: games that cannot be told apart ask shared heads for opposite moves",
            control("control_conflict", opposite),
        ),
        # Equal rows would give equal gradients. What the tasks have are samples of one distribution:
        # expected gradients are equal, and the cosine is 1 but for the noise of batches and, early in
        # a run, of rings that have not seen the same episodes.
        "control_same": (
            "negative control: one game as two tasks, whose gradients differ by noise alone",
            control("control_same", ("Catch", "CatchAgain")),
        ),
    }
    if not moe:
        return found
    # With an expert for each game a token passes two, as in the study; of more, it would pass all that
    # its game owns.
    own = {"routing": "hardcoded", "num_experts": len(opposite)}
    return found | {
        "control_routing": (
            "control of routing: each game has a routed expert of its own, and no two share its gradient",
            control("control_routing", opposite, own),
        )
    }
