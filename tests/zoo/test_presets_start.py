"""Every preset of every domain starts: environments, networks, search, an update and an evaluation,
in small."""

import numpy as np
import pytest

from lzero.config import ExperimentConfig
from lzero.entry import train_ppo_moe, train_unizero_multitask_segment_ddp
from lzero.logging import read_metrics
from zoo.atari.config.presets import presets as atari
from zoo.catch.config.ppo_presets import ppo_presets as catch_ppo
from zoo.catch.config.presets import presets as catch
from zoo.gym.config.presets import presets as gym
from zoo.minatar.config.ppo_presets import ppo_presets as minatar_ppo
from zoo.minatar.config.presets import presets as minatar

PRESETS = {
    f"{domain}-{'moe' if moe else 'dense'}-{name}": config
    for domain, made in (("atari", atari), ("catch", catch), ("gym", gym), ("minatar", minatar))
    for moe in (True, False)
    for name, (_, config) in made(moe=moe).items()
}
STEPS = 20


def in_small(config: ExperimentConfig) -> dict:
    """The same kinds of everything with small numbers, for two updates; of many games the first
    two."""
    data = config.model_dump()
    data["env"] |= {"games": config.env.games[:2], "overrides": {}}
    data["env"] |= {"num_envs": 1, "num_eval_envs": 1, "max_episode_steps": STEPS}
    data["model"] |= {
        "embed_dim": 32,
        "num_heads": 2,
        "num_layers": min(2, config.model.num_layers),
    }
    data["model"]["encoder"] |= {"vit_width": 32, "vit_layers": 1, "vit_heads": 2}
    data["policy"] |= {"batch_size": 1, "replay_ratio": 2 / STEPS}
    data["policy"]["replay"]["capacity"] = 100
    data["policy"]["search"] |= {"num_simulations": 3, "num_eval_simulations": 2}
    data["train"] |= {
        "max_env_steps": STEPS,
        "collect_steps": STEPS,
        "random_steps": 0,
        "eval_episodes": 1,
    }
    return data | {"device": "cpu"}


@pytest.mark.parametrize("name", PRESETS)
def test_it_starts(name, tmp_path):
    config = PRESETS[name]
    data = in_small(config) | {"output_dir": str(tmp_path)}
    data["train"] |= {"log_interval": 1, "video": False, "pictures": False}
    result = train_unizero_multitask_segment_ddp(data)
    assert result.train_iter == 2 and set(result.scores) == set(config.env.games[:2])
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    losses = [row["metrics"]["learn/loss"] for row in rows if "learn/loss" in row["metrics"]]
    assert len(losses) == 2 and np.isfinite(losses).all()


PPO_PRESETS = {
    f"{domain}-{name}": config
    for domain, made in (("catch", catch_ppo), ("minatar", minatar_ppo))
    for name, (_, config) in made().items()
}


@pytest.mark.parametrize("name", PPO_PRESETS)
def test_ppo_starts(name, tmp_path):
    config = PPO_PRESETS[name]
    data = config.model_dump() | {"output_dir": str(tmp_path), "device": "cpu"}
    data["env"] |= {"num_envs": 2, "num_eval_envs": 1, "max_episode_steps": STEPS}
    data["policy"] |= {"epochs": 1, "minibatches": 2, "probe_observations": 6}
    data["train"] |= {"max_env_steps": 2 * STEPS, "collect_steps": STEPS // 2, "eval_episodes": 1}
    data["train"] |= {"log_interval": 1, "video": False, "pictures": False}
    result = train_ppo_moe(data)
    rounds = 2 * (config.num_tasks if config.is_continual else 1)
    assert result.train_iter == 2 * rounds and set(result.scores) == set(config.env.games)
