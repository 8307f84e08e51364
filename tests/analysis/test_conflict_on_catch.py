"""Conflict where its cause is known: the two Catch tasks show the same pictures and ask for
opposite moves.
"""

import numpy as np
import torch

from lzero.analysis.conflict import GradientConflict
from lzero.config import ExperimentConfig
from lzero.envs.domain import load_domain
from lzero.policy import UniZeroMTPolicy
from lzero.replay.buffer import ReplayBuffer
from zoo.catch.config.presets import presets
from zoo.catch.envs import BALL, PADDLE, ROWS

UPDATES, INTERVAL = 61, 10
ONLY_POLICY = {"latent": 0, "reward": 0, "termination": 0, "value": 0, "spread": 0, "entropy": 0}


def make_config(*, share_head: bool = True, moe: dict | None = None) -> ExperimentConfig:
    """One step of context and no task embedding: only heads of their own can tell the tasks apart."""
    data = presets(moe=True)["blind"][1].model_dump()
    data["model"]["share_head"] = share_head
    data["policy"] |= {
        "gradient_conflict_interval": INTERVAL,
        "loss": ONLY_POLICY,
        "batch_size": 64,
    }
    data["model"]["moe"] |= moe or {}
    return ExperimentConfig.model_validate(data | {"device": "cpu", "precision": "fp32"})


def best_action(picture: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """The move towards the ball of observations ``(N, C, H, W)``."""
    ball = picture[:, BALL].any(axis=1).argmax(axis=1)
    paddle = picture[:, PADDLE, ROWS - 1].argmax(axis=1)
    move = np.sign(ball - paddle) * np.where(mirrored, -1, 1)
    return move + 1


def conflicts(config: ExperimentConfig, seed: int = 0) -> list[dict[str, GradientConflict]]:
    """Of the last three measured updates, on games played at random with the best moves as policy
    targets.

    The first updates learn what the tasks have in common, such as how often the ball is straight
    above.
    """
    env = load_domain(config.env.domain).make(
        config.env,
        config.env.games,
        (0, 1),
        (16, 16),
        env_offsets=(0, 0),
        training=True,
        num_threads=1,
    )
    replay = ReplayBuffer(
        env.task_id,
        80,
        env.observation_shape,
        env.observation_dtype,
        env.num_actions,
        config.policy.window,
    )
    rng = np.random.default_rng(seed)
    observation = env.reset(seed).observation
    for _ in range(70):
        action = rng.integers(0, 3, env.num_envs)
        visits = np.eye(3)[best_action(observation, env.task_id == 1)]
        step = env.step(action)
        flags = {"terminated": step.terminated, "truncated": step.truncated, "reset": step.reset}
        replay.append(
            observation,
            action,
            step.reward,
            visits=visits,
            root_value=np.zeros(env.num_envs),
            **flags,
        )
        observation = step.observation
    torch.manual_seed(seed)
    policy = UniZeroMTPolicy(config, env.observation_shape, env.legal_actions[[0, 16]])
    results = [policy.learn(replay.sample({0: 64, 1: 64}, rng)) for _ in range(UPDATES)]
    return [result.conflicts() for result in results if result.measured][-3:]


def mean_score(measured: list[dict[str, GradientConflict]], component: str) -> float:
    return float(np.mean([conflicts[component].max_conflict_score for conflicts in measured]))


def test_what_cannot_tell_mirrored_tasks_apart_is_torn_between_them():
    """On the mean of three seeds: a single one may see little conflict by chance, above all in the encoder."""
    shared, own = [], []
    for seed in range(3):
        shared += conflicts(make_config(), seed)
        own += conflicts(make_config(share_head=False), seed)
    for component in (
        "before_moe/layer0",
        "moe_layer/layer0",
        "shared_expert/layer0",
        "transformer",
    ):
        score = mean_score(shared, component)
        assert score > 0.4, f"{component}: opposite moves are wanted of the same features"
        assert mean_score(own, component) < score / 2, f"{component}: heads of their own translate"


def test_hardcoded_experts_are_never_pulled_by_both_tasks():
    for found in conflicts(make_config(moe={"routing": "hardcoded"})):
        experts = [conflict for name, conflict in found.items() if name.startswith("expert_")]
        assert len(experts) == 8
        assert all(
            conflict.valid.sum() == 1 and np.isnan(conflict.max_conflict_score)
            for conflict in experts
        )
