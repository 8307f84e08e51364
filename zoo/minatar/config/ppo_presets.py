"""Presets of the PPO experiments on MinAtar: the study of mixtures of experts in a mixture of RL settings."""

from typing import Any

from lzero.config_ppo import PPOExperiment
from lzero.envs.domain import read_experiment
from zoo.minatar.config.presets import THREE

STUDY_STEPS = 2_000_000  # env steps of each game
NUM_ENVS = 64
ROUND = 128 * NUM_ENVS  # env steps of each game in a round


def ppo_presets() -> dict[str, tuple[str, PPOExperiment]]:
    """Name to (a line of help, config)."""
    one = ("Breakout",)
    crl: dict[str, Any] = {"schedule": {"setting": "crl", "cycles": 2}}
    return {
        "quick": (
            "Breakout alone, half a million env steps; a minute or two",
            _ppo("minatar_ppo_quick", one, 500_000),
        ),
        "mtrl": (
            "multi-task: Breakout, Asterix and SpaceInvaders at once, 2 million env steps each",
            _ppo("minatar_ppo_mtrl", THREE, STUDY_STEPS),
        ),
        "crl": (
            "continual: the three games one after another, twice, 2 million env steps each",
            _ppo("minatar_ppo_crl", THREE, STUDY_STEPS, crl),
        ),
    }


def _ppo(
    exp_name: str,
    games: tuple[str, ...],
    max_env_steps: int,
    more: dict[str, Any] | None = None,
) -> PPOExperiment:
    """The recipe of PureJaxRL for MinAtar."""
    config = {
        "exp_name": exp_name,
        "env": {
            "domain": "zoo.minatar.domain:MINATAR",
            "games": games,
            # the package's own defaults, as in the other MinAtar presets: scores can be compared
            "sticky_action_probability": 0.1,
            "difficulty_ramping": True,
            "num_envs": NUM_ENVS,
            "num_eval_envs": 32,
            "minimal_actions": False,
            "max_episode_steps": 2500,
            "clip_reward": False,
            "end_on_life_loss": False,
        },
        "train": {
            "max_env_steps": max_env_steps,
            "collect_steps": 128,
            "eval_interval": max_env_steps // 5,
            "eval_at_start": True,
            "eval_episodes": 32,
            "checkpoint_interval": 50 * ROUND,
            "log_interval": 320,  # 10 rounds of 4 epochs x 8 updates
            "moe_log_interval": 320,
        },
    }
    return read_experiment(PPOExperiment, config | (more or {}))
