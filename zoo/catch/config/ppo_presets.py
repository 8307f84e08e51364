"""Presets of the PPO experiments on Catch."""

from lzero.config_ppo import PPOExperiment
from lzero.envs.domain import read_experiment

MAX_ENV_STEPS = 40_960  # 80 rounds


def ppo_presets() -> dict[str, tuple[str, PPOExperiment]]:
    """Name to (a line of help, config)."""
    return {
        "both": (
            "Catch and MirroredCatch, told apart by the task as an input; seconds",
            _ppo("catch_ppo", task_input=True),
        ),
        "blind": (
            "nothing tells the tasks apart: the same pictures ask for opposite actions",
            _ppo("catch_ppo_blind", task_input=False),
        ),
    }


def _ppo(exp_name: str, *, task_input: bool) -> PPOExperiment:
    return read_experiment(
        PPOExperiment,
        {
            "exp_name": exp_name,
            "env": {
                "domain": "zoo.catch.domain:CATCH",
                "games": ("Catch", "MirroredCatch"),
                "num_envs": 32,
                "num_eval_envs": 16,
                "max_episode_steps": 8,
                "clip_reward": False,
                "end_on_life_loss": False,
            },
            "model": {"task_input": task_input},
            "policy": {"minibatches": 4, "gradient_conflict_interval": 80},
            "train": {
                "max_env_steps": MAX_ENV_STEPS,
                "collect_steps": 16,
                "eval_interval": MAX_ENV_STEPS // 4,
                "eval_episodes": 32,
                "checkpoint_interval": MAX_ENV_STEPS // 4,
                "log_interval": 160,
                "moe_log_interval": 160,
            },
        },
    )
