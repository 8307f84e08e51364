"""Presets of the Atari experiments, with dense blocks or mixture-of-experts blocks."""

import torch

from lzero.config import ExperimentConfig
from zoo.atari.envs import ATARI8, ATARI26
from zoo.conflict_study import conflict_study

ATARI3 = ("Pong", "MsPacman", "Seaquest")


def presets(*, moe: bool) -> dict[str, tuple[str, ExperimentConfig]]:
    """Name to (a line of help, config)."""
    suffix = "moe" if moe else "dense"
    wide = {"embed_dim": 768, "num_heads": 8, "num_layers": 4, "encoder": {"kind": "vit"}, "moe": {"enabled": moe}}
    return {
        "cpu": ("2 games, small networks, minutes on 2 cores", _cpu(f"atari_cpu_{suffix}", moe)),
        "atari3": ("3 games, 256-wide ResNet model; hours on one GPU", _atari3(f"atari3_{suffix}", moe)),
        "atari8": (
            "8 games, the published 768-wide ViT model",
            _published(f"atari8_{suffix}", ATARI8, wide, batch_size=128),
        ),
        "atari26": (
            "26 games, the published model, 512 windows per update",
            # 512 windows over 26 games: 18 games get 20 windows, 8 get 19
            _published(
                f"atari26_{suffix}",
                ATARI26,
                wide,
                batch_size=20,
                overrides={game: {"batch_size": 19} for game in ATARI26[-8:]},
            ),
        ),
        **conflict_study(_published(f"atari8_conflict_{suffix}", ATARI8, wide, batch_size=128), moe=moe, interval=200),
    }


def default_preset() -> str:
    """``cpu`` where there is no GPU."""
    return "atari8" if torch.cuda.is_available() else "cpu"


def _cpu(exp_name: str, moe: bool) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "exp_name": exp_name,
            # 4000 env steps bound an evaluation in time; games of untrained agents are far shorter.
            "env": {"games": ("Pong", "MsPacman"), "num_envs": 8, "num_eval_envs": 4, "max_episode_steps": 4_000},
            "model": {
                "embed_dim": 128,
                "num_heads": 4,
                "num_layers": 2,
                "encoder": {"kind": "resnet", "widths": (32, 64)},
                "moe": {"enabled": moe},
            },
            "policy": {
                "batch_size": 16,
                "replay_ratio": 0.1,
                "optimiser": {"learning_rate": 3e-4},
                "replay": {"capacity": 40_000},
                "search": {"num_simulations": 16, "num_eval_simulations": 8},
            },
            "train": {
                "max_env_steps": 3_200,
                "eval_interval": 3_200,
                "eval_episodes": 4,
                "checkpoint_interval": 1_600,
                "log_interval": 10,
            },
        }
    )


def _atari3(exp_name: str, moe: bool) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "exp_name": exp_name,
            "env": {"games": ATARI3},
            "model": {"embed_dim": 256, "num_layers": 2, "moe": {"enabled": moe}},
            "policy": {"batch_size": 64, "replay_ratio": 0.25, "replay": {"capacity": 200_000}},
            "train": {"max_env_steps": 200_000, "eval_interval": 20_000, "checkpoint_interval": 20_000},
        }
    )


def _published(
    exp_name: str, games: tuple[str, ...], model: dict, *, batch_size: int, overrides: dict | None = None
) -> ExperimentConfig:
    """Sizes of the published multi-task runs (UniZero, arXiv 2406.10667; ScaleZero, arXiv 2509.07945)."""
    return ExperimentConfig.model_validate(
        {
            "exp_name": exp_name,
            "env": {"games": games, "num_envs": 8, "overrides": overrides or {}},
            "model": model,
            "policy": {
                "batch_size": batch_size,
                "unroll_steps": 10,
                "td_steps": 5,
                # 80 updates per 20 steps of 8 environments of each game
                "replay_ratio": 0.5,
                "replay": {"capacity": 500_000},
                "search": {"num_simulations": 25, "num_eval_simulations": 50},
            },
            "train": {
                "max_env_steps": 400_000,
                "collect_steps": 20,
                "eval_interval": 20_000,
                "checkpoint_interval": 20_000,
            },
        }
    )
