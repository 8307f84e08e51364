"""Presets of the classic control experiments, with dense blocks or mixture-of-experts blocks."""

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings


def presets(*, moe: bool) -> dict[str, tuple[str, ExperimentConfig]]:
    """Name to (a line of help, config)."""
    suffix = "" if moe else "_dense"
    three = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
    return {
        "cartpole": ("CartPole-v1", _small(f"cartpole{suffix}", ("CartPole-v1",), moe)),
        "three": (
            "CartPole-v1, Acrobot-v1 and MountainCar-v0 together",
            _small(f"classic_control_three{suffix}", three, moe),
        ),
    }


def _small(exp_name: str, games: tuple[str, ...], moe: bool) -> ExperimentConfig:
    """Small networks; minutes on 2 cores."""
    return with_domain_settings(
        {
            "exp_name": exp_name,
            "env": {
                "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
                "games": games,
                "clip_reward": False,
                "end_on_life_loss": False,
            },
            "model": {
                "embed_dim": 64,
                "num_heads": 4,
                "encoder": {"kind": "mlp", "hidden": (128,)},
                "moe": {"enabled": moe},
            },
            "policy": {
                "batch_size": 64,
                "replay_ratio": 0.25,
                "replay": {"capacity": 50_000},
                "optimiser": {"learning_rate": 1e-3},
                "search": {"num_simulations": 16, "num_eval_simulations": 16},
            },
            "train": {"max_env_steps": 8_000, "eval_interval": 2_000, "checkpoint_interval": 4_000},
        }
    )
