"""Presets of the MinAtar experiments, with dense blocks or mixture-of-experts blocks."""

from functools import partial

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings
from zoo.conflict_study import conflict_study
from zoo.minatar.envs import GAMES

THREE = ("Breakout", "Asterix", "SpaceInvaders")


def presets(*, moe: bool) -> dict[str, tuple[str, ExperimentConfig]]:
    """Name to (a line of help, config)."""
    suffix = "moe" if moe else "dense"
    # Many env steps and few updates each: rewards are rare in some games (Asterix), and steps are
    # cheap.
    make = partial(_minatar, moe=moe, num_envs=32, replay_ratio=0.1)
    alone = partial(make, batch_size=64, max_env_steps=60_000)
    together = partial(make, batch_size=32)
    conflict = together(f"minatar_conflict_{suffix}", THREE, max_env_steps=12_000)
    return {
        "breakout": ("Breakout alone", alone(f"minatar_breakout_{suffix}", ("Breakout",))),
        "three": (
            "Breakout, Asterix and SpaceInvaders together",
            together(f"minatar_three_{suffix}", THREE, max_env_steps=100_000),
        ),
        "five": (
            "all five games together",
            together(f"minatar_five_{suffix}", tuple(GAMES), max_env_steps=100_000),
        ),
        **conflict_study(conflict, moe=moe, interval=50),
    }


def _minatar(
    exp_name: str,
    games: tuple[str, ...],
    *,
    moe: bool,
    num_envs: int,
    batch_size: int,
    replay_ratio: float,
    max_env_steps: int,
) -> ExperimentConfig:
    """Small networks: well under an hour on one core."""
    return with_domain_settings(
        {
            "exp_name": exp_name,
            "env": {
                "domain": "zoo.minatar.domain:MINATAR",
                "games": games,
                # the package's own defaults
                "sticky_action_probability": 0.1,
                "difficulty_ramping": True,
                "num_envs": num_envs,
                "num_eval_envs": 32,
                "minimal_actions": False,
                # Freeway ends itself one step later, with a clock that no observation shows
                "max_episode_steps": 2500,
                "clip_reward": False,
                "end_on_life_loss": False,
            },
            "model": {
                "embed_dim": 64,
                "num_heads": 4,
                "num_layers": 2,
                "encoder": {"kind": "conv", "widths": (16,)},
                "moe": {"enabled": moe, "num_experts": 8, "num_shared_experts": 1},
            },
            "policy": {
                "batch_size": batch_size,
                "unroll_steps": 5,
                "discount": 0.99,
                "replay_ratio": replay_ratio,
                "replay": {"capacity": 100_000},
                "optimiser": {"learning_rate": 5e-4},
                "search": {"num_simulations": 16, "num_eval_simulations": 16},
            },
            "train": {
                "max_env_steps": max_env_steps,
                "eval_interval": max_env_steps // 5,
                "eval_episodes": 64,
                "checkpoint_interval": 10_000,
            },
        }
    )
