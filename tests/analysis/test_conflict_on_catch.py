"""Conflict where its cause is known: the two Catch tasks show the same pictures and ask for
opposite moves, or are one game twice.
"""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch

from lzero.analysis.conflict import GradientConflict
from lzero.config import ExperimentConfig
from lzero.envs.domain import load_domain
from lzero.policy import UniZeroMTPolicy
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.windows import ReplayWindows
from zoo.catch.config.presets import presets
from zoo.catch.domain import MIRRORED
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


def control(name: str, *, moe: bool = True) -> ExperimentConfig:
    """A preset of the controls, with all of its losses."""
    data = presets(moe=moe)[f"control_{name}"][1].model_dump()
    return ExperimentConfig.model_validate(data | {"device": "cpu", "precision": "fp32"})


def best_action(picture: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """The move towards the ball of observations ``(N, C, H, W)``."""
    ball = picture[:, BALL].any(axis=1).argmax(axis=1)
    paddle = picture[:, PADDLE, ROWS - 1].argmax(axis=1)
    move = np.sign(ball - paddle) * np.where(mirrored, -1, 1)
    return move + 1


def begin(
    config: ExperimentConfig, seed: int = 0
) -> tuple[UniZeroMTPolicy, Callable[[], ReplayWindows]]:
    """A fresh policy, and what draws its batches from games played at random, with the best moves as
    policy targets."""
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
    mirrored = np.array([MIRRORED[config.env.games[task]] for task in env.task_id])
    observation = env.reset(seed).observation
    for _ in range(70):
        action = rng.integers(0, 3, env.num_envs)
        visits = np.eye(3)[best_action(observation, mirrored)]
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
    sizes = dict.fromkeys((0, 1), config.policy.batch_size)
    return policy, lambda: replay.sample(sizes, rng)


def conflicts(
    config: ExperimentConfig, seed: int = 0, updates: int = UPDATES
) -> list[dict[str, GradientConflict]]:
    """Of the last three measured updates.

    The first updates learn what the tasks have in common, such as how often the ball is straight
    above.
    """
    policy, sample = begin(config, seed)
    results = [policy.learn(sample()) for _ in range(updates)]
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
        assert score > 0.25, f"{component}: opposite moves are wanted of the same features"
        assert mean_score(own, component) < score / 2, f"{component}: heads of their own translate"


def test_hardcoded_experts_are_never_pulled_by_both_tasks():
    for found in conflicts(make_config(moe={"routing": "hardcoded"})):
        experts = [conflict for name, conflict in found.items() if name.startswith("expert_")]
        assert len(experts) == 8
        assert all(
            conflict.valid.sum() == 1 and np.isnan(conflict.max_conflict_score)
            for conflict in experts
        )


CONTROLLED = ("before_moe/layer0", "moe_layer/layer0", "transformer")


@pytest.mark.parametrize("moe", [True, False], ids=["moe", "dense"])
def test_positive_control_opposite_moves_are_wanted_of_one_function(moe):
    """All losses count: what an action does is opposite too, so the next latent asks for opposites.

    Not at the encoder: what is to be seen of a picture is the same.
    """
    measured = conflicts(control("conflict", moe=moe))
    for component in (*CONTROLLED, *(["shared_expert/layer0"] if moe else [])):
        assert mean_score(measured, component) > 0.1, (
            component
        )  # of three seeds none had less than 0.22


def test_negative_control_one_game_under_two_names_pulls_one_way():
    """Not as one: batches differ, and a gradient's noise grows beside it while the loss falls."""
    measured = conflicts(control("same"))
    for component in (*CONTROLLED, "encoder", "encoder_parameters", "shared_expert/layer0"):
        assert mean_score(measured, component) < -0.2, component  # none had more than -0.33


def with_the_same_rows(windows: ReplayWindows) -> ReplayWindows:
    """The second task is given what the first has."""
    rows = (windows.task_id == 0).nonzero()[:, 0].repeat(2)
    copied = {field.name: getattr(windows, field.name)[rows] for field in fields(windows)}
    copied["task_id"] = windows.task_id.sort().values
    return ReplayWindows(**copied)


@pytest.mark.parametrize("moe", [True, False], ids=["moe", "dense"])
def test_without_noise_the_negative_control_has_no_conflict_at_all(moe):
    """Equal rows have equal gradients at every point, since both tasks are one function; with heads
    of their own, which begin differently, they are two."""
    data = control("same", moe=moe).model_dump()
    for share_head in (True, False):
        data["model"]["share_head"] = share_head
        policy, sample = begin(ExperimentConfig.model_validate(data))
        found = policy.learn(with_the_same_rows(sample())).conflicts()
        assert set(found) >= {"encoder", *CONTROLLED}
        for component, conflict in found.items():
            if not share_head:
                assert not conflict.max_conflict_score < -0.999, component
            elif conflict.valid.any():  # an expert may have been chosen by nobody
                assert conflict.valid.all()
                assert conflict.max_conflict_score == pytest.approx(-1, abs=1e-5), component
                norms = conflict.gradient_norms
                torch.testing.assert_close(norms[0], norms[1], atol=0, rtol=1e-4)


def from_one_ring(windows: ReplayWindows) -> ReplayWindows:
    """Both tasks are given rows of the first, which were drawn independently."""
    rows = (windows.task_id == 0).nonzero()[:, 0]
    copied = {field.name: getattr(windows, field.name)[rows] for field in fields(windows)}
    copied["task_id"] = torch.arange(len(rows)) * 2 // len(rows)
    return ReplayWindows(**copied)


def test_negative_control_without_noise_is_one():
    """Two tasks whose expected gradients are equal: their cosine is 1, but for what batches differ by."""
    config = control("same")
    data = config.model_dump()
    data["policy"] |= {"batch_size": 2 * config.policy.batch_size, "gradient_conflict_interval": 1}
    policy, sample = begin(ExperimentConfig.model_validate(data))
    measured = [policy.learn(from_one_ring(sample())).conflicts() for _ in range(60)][10:]
    for component in (*CONTROLLED, "encoder_parameters", "shared_expert/layer0"):
        pooled = GradientConflict.pooled([found[component] for found in measured])
        low, high = pooled.denoised_cosine_interval()
        assert low[0, 1] <= 1 <= high[0, 1], component
        assert high[0, 1] - low[0, 1] < 0.3, f"{component}: the interval says something"
        raw = np.mean([found[component].cosine_similarity_matrix[0, 1] for found in measured])
        assert raw < low[0, 1], f"{component}: and the noise is not what there is none of"


def test_routing_control_own_experts_have_no_pair_and_the_shared_expert_has():
    for found in conflicts(control("routing"), updates=INTERVAL + 1):
        experts = {name for name in found if name.startswith("expert_")}
        assert experts == {"expert_0/layer0", "expert_1/layer0"}
        for task in range(2):
            conflict = found[f"expert_{task}/layer0"]
            assert conflict.valid.tolist() == [task == 0, task == 1]
            assert conflict.coverage == 0.5, "one task of the two that a pair needs"
            for score in ("max_conflict_score", "avg_conflict_score", "conflict_rate"):
                assert np.isnan(getattr(conflict, score)), score
            assert conflict.cosine_similarity_matrix[0, 1].isnan()
        shared = found["shared_expert/layer0"]
        assert shared.valid.all() and shared.coverage == 1
        assert -1 <= shared.max_conflict_score <= 1
        assert not {name for name in found if name.startswith("router")}, "nothing is learned there"
