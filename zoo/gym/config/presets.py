"""Presets of experiments with gymnasium's environments, with dense blocks or mixture-of-experts blocks."""

from typing import Any

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings


def presets(*, moe: bool) -> dict[str, tuple[str, ExperimentConfig]]:
    """Name to (a line of help, config)."""
    suffix = "moe" if moe else "dense"
    return {
        "cpu": (
            "ids that observe vectors (--env.games …); CartPole-v1 in a few minutes on one core",
            _vectors(f"gym_cpu_{suffix}", moe),
        ),
        "image": (
            "ids that show pictures (--env.games …), 100,000 env steps each; an hour or two a game on one core",
            _pictures(f"gym_image_{suffix}", moe),
        ),
    }


def _vectors(exp_name: str, moe: bool) -> ExperimentConfig:
    """Small networks for a few numbers: more updates than pictures could afford, and no rewards clipped."""
    return _with_gym(
        exp_name,
        {"games": ("CartPole-v1",)},
        {"embed_dim": 64, "num_heads": 4, "encoder": {"kind": "auto", "hidden": (128,)}},
        {
            "batch_size": 64,
            "unroll_steps": 5,
            # CartPole's pole falls within ten steps of a wrong move; the sum of so many rewards says it before values do
            "td_steps": 10,
            # values of at most 100 where every step is worth 1: what a hundred steps away is not told apart
            "discount": 0.99,
            "replay_ratio": 0.25,
            "replay": {"capacity": 50_000},
            "optimiser": {"learning_rate": 1e-3},
        },
        {"max_env_steps": 6_000, "eval_interval": 2_000, "checkpoint_interval": 2_000},
        moe,
    )


def _pictures(exp_name: str, moe: bool) -> ExperimentConfig:
    """The sizes of Atari's preset ``afternoon``, which were chosen for 100,000 env steps on one core."""
    return _with_gym(
        exp_name,
        {"games": ("ALE/Breakout-v5",), "num_envs": 16, "num_eval_envs": 8, "clip_reward": True},
        {
            "embed_dim": 128,
            "num_heads": 4,
            # resnet: multiples of 8, narrow enough for one core
            "encoder": {"kind": "auto", "widths": (16, 32, 32)},
            # of clipped rewards, as in Atari's presets: a bin is half a reward wide, the limit a return of 422
            "support_limit": 20.0,
            "support_bins": 201,
        },
        {
            "batch_size": 20,
            "unroll_steps": 10,
            "replay_ratio": 0.5,
            "shift_pixels": 4,
            "loss": {"latent": 2.0},
            "optimiser": {"learning_rate": 1e-3},
            "replay": {"capacity": 100_000},
        },
        {
            "max_env_steps": 100_000,
            "random_steps": 2_000,
            "eval_interval": 50_000,
            "eval_episodes": 16,
            "checkpoint_interval": 5_000,
        },
        moe,
    )


def _with_gym(
    exp_name: str,
    env: dict[str, Any],
    model: dict[str, Any],
    policy: dict[str, Any],
    train: dict[str, Any],
    moe: bool,
) -> ExperimentConfig:
    """What both have: the domain, and a search of few simulations, for which Gumbel's is made."""
    search = {"kind": "gumbel", "num_simulations": 16, "num_eval_simulations": 16}
    return with_domain_settings(
        {
            "exp_name": exp_name,
            "env": {"domain": "gym", **env},
            "model": {"num_layers": 2, "moe": {"enabled": moe}, **model},
            "policy": {"search": search, **policy},
            "train": train,
        }
    )
