"""Train multi-task UniZero on classic control, an example of a domain with vector observations.

python zoo/classic_control/config/classic_control_unizero_multitask_segment_ddp_config_moe.py           # CartPole
python zoo/classic_control/config/classic_control_unizero_multitask_segment_ddp_config_moe.py three
"""

from lzero.config import ExperimentConfig
from lzero.entry.cli import main
from lzero.envs.domain import with_domain_settings


def preset(exp_name: str, games: tuple[str, ...]) -> ExperimentConfig:
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


PRESETS = {
    "cartpole": ("CartPole-v1", preset("cartpole", ("CartPole-v1",))),
    "three": (
        "CartPole-v1, Acrobot-v1 and MountainCar-v0 together",
        preset("classic_control_three", ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")),
    ),
}

if __name__ == "__main__":
    main(PRESETS, "cartpole")
