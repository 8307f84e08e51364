"""Presets of the Catch experiments, with dense blocks or mixture-of-experts blocks."""

from functools import partial

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings
from zoo.catch.config.controls import controls
from zoo.conflict_study import conflict_study

MAX_ENV_STEPS = 4_800


def presets(*, moe: bool) -> dict[str, tuple[str, ExperimentConfig]]:
    """Name to (a line of help, config)."""
    suffix = "moe" if moe else "dense"
    # With Gumbel search each of 8 seeds reaches the optimum; with pUCT one of three did not
    # (benchmarks/RESULTS.md).
    quick = partial(_catch, moe=moe, batch_size=8, learning_rate=2e-3, search="gumbel")
    return {
        "both": (
            "Catch and MirroredCatch, told apart by task id; a minute or two",
            quick(f"catch_{suffix}"),
        ),
        "blind": (
            "one step of context, shared heads, no task embedding: the tasks cannot be told apart",
            quick(f"catch_blind_{suffix}", context_steps=1, share_head=True),
        ),
        "context": (
            "shared heads and no task embedding, but 4 steps of context: the task shows in the paddle's motion; 5 minutes",
            _catch(f"catch_context_{suffix}", moe=moe, share_head=True, replay_ratio=1.0),
        ),
        **conflict_study(_catch(f"catch_conflict_{suffix}", moe=moe), moe=moe, interval=50),
        **controls(_catch("catch", moe=moe), moe=moe),
    }


def _catch(
    exp_name: str,
    *,
    moe: bool,
    context_steps: int = 4,
    share_head: bool = False,
    replay_ratio: float = 0.25,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    search: str = "puct",
) -> ExperimentConfig:
    return with_domain_settings(
        {
            "exp_name": exp_name,
            "env": {
                "domain": "zoo.catch.domain:CATCH",
                "games": ("Catch", "MirroredCatch"),
                "num_envs": 16,
                "num_eval_envs": 16,
                "max_episode_steps": 8,
                "clip_reward": False,
                "end_on_life_loss": False,
            },
            "model": {
                "embed_dim": 64,
                "num_heads": 4,
                "num_layers": 1,
                "context_steps": context_steps,
                "share_head": share_head,
                "encoder": {"kind": "mlp", "hidden": (128,)},
                "moe": {"enabled": moe},
            },
            "policy": {
                "batch_size": batch_size,
                "unroll_steps": 5,
                "td_steps": 5,
                "replay_ratio": replay_ratio,
                "replay": {"capacity": 20_000},
                "optimiser": {"learning_rate": learning_rate},
                "search": {"kind": search, "num_simulations": 16, "num_eval_simulations": 16},
            },
            "train": {
                "max_env_steps": MAX_ENV_STEPS,
                "eval_interval": 2_000,
                "eval_episodes": 64,
                "checkpoint_interval": MAX_ENV_STEPS,
                "log_interval": 20,
            },
        }
    )
