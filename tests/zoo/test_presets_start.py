"""Every preset of every domain starts: environments, networks, search, an update and an evaluation,
in small."""

import numpy as np
import pytest

from lzero.config import ExperimentConfig
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.logging import read_metrics
from zoo.atari.config.presets import presets as atari
from zoo.catch.config.presets import presets as catch
from zoo.minatar.config.presets import presets as minatar

PRESETS = {
    f"{domain}-{'moe' if moe else 'dense'}-{name}": config
    for domain, made in (("atari", atari), ("catch", catch), ("minatar", minatar))
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
    data["train"] |= {"log_interval": 1, "video": False}
    result = train_unizero_multitask_segment_ddp(data)
    assert result.train_iter == 2 and set(result.scores) == set(config.env.games[:2])
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    losses = [row["metrics"]["learn/loss"] for row in rows if "learn/loss" in row["metrics"]]
    assert len(losses) == 2 and np.isfinite(losses).all()
