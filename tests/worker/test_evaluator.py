"""Evaluating: fair shares of episodes, true scores, and no trace left behind in training."""

import copy
from collections.abc import Sequence

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from lzero.config import ExperimentConfig
from lzero.envs import MultiTaskVectorEnv, TaskEnv, task_seed
from lzero.logging import PhaseTimer
from lzero.policy import UniZeroMTPolicy
from lzero.replay.buffer import ReplayBuffer
from lzero.worker.actor import Actor, Decision
from lzero.worker.collector import Collector
from lzero.worker.evaluator import Evaluation, Film, evaluate
from zoo.atari.domain import ATARI

SMALL = {
    "env": {
        "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
        "games": ("CartPole-v1", "Acrobot-v1"),
    },
    "model": {
        "embed_dim": 32,
        "num_heads": 4,
        "num_layers": 1,
        "context_steps": 3,
        "support_bins": 21,
        "support_limit": 5.0,
        "encoder": {"kind": "mlp", "hidden": (24,)},
        "moe": {"num_experts": 4},
    },
    "policy": {
        "unroll_steps": 4,
        "td_steps": 3,
        "replay": {"capacity": 1000},
        "search": {"num_simulations": 4, "num_eval_simulations": 4},
    },
    "device": "cpu",
    "precision": "fp32",
}
CONFIG = ExperimentConfig.model_validate(SMALL)


class CountingVectorEnv(VectorEnv):
    """n games of fixed lengths; a step is worth the action plus one hundredth of the game's number."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs, self.lengths = len(lengths), np.array(lengths)
        self.single_observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = Discrete(3)
        self.time = np.zeros(self.num_envs, int)

    def reset(self, *, seed=None, options=None):
        self.time[:] = 0
        return self._observe(), {}

    def step(self, actions):
        ended = self.time == self.lengths
        self.time = np.where(ended, 0, self.time + 1)
        reward = np.where(ended, 0.0, actions + 0.01 * np.arange(self.num_envs))
        over = self.time == self.lengths
        return self._observe(), reward, over, np.zeros_like(over), {}

    def _observe(self):
        return np.stack([np.arange(self.num_envs), self.time], axis=1).astype(np.float32)


class CountingActor:
    """Acts 0, 1, 2, 0, … in every environment and notes whose context is cleared when."""

    def __init__(self) -> None:
        self.calls, self.forgotten = 0, []

    def act(self, observation: np.ndarray) -> Decision:
        action = np.full(len(observation), self.calls % 3)
        self.calls += 1
        policy, scalar = (
            np.full((len(observation), 3), 1 / 3, np.float32),
            np.zeros(len(observation), np.float32),
        )
        return Decision(action, policy, scalar, policy, scalar, scalar)

    def forget(self, ended: np.ndarray) -> None:
        self.forgotten.append((self.calls, ended.copy()))


def counting_env(*lengths: Sequence[int]) -> MultiTaskVectorEnv:
    tasks = [
        TaskEnv(CountingVectorEnv(of_task), 3 * t, f"task{t}", "vector")
        for t, of_task in enumerate(lengths)
    ]
    return MultiTaskVectorEnv(tasks)


@pytest.mark.parametrize(
    ("num_episodes", "first", "second"),
    [
        (1, [2], [4]),
        (2, [2, 9], [4, 4]),
        (3, [2, 9, 2], [4, 4, 4]),
        (4, [2, 9, 2, 9], [4, 4, 4, 4]),
    ],
)
def test_every_environment_plays_its_fixed_share(num_episodes, first, second):
    """Short episodes are not counted more often, though their environment finishes many of them."""
    result = evaluate(counting_env([2, 9], [4]), CountingActor(), num_episodes, 0)
    assert result.length.tolist() == [first, second]
    assert result.score.shape == result.length.shape


def test_a_surplus_of_rounding_up_is_dropped():
    result = evaluate(counting_env([3, 5, 7]), CountingActor(), 4, 0)
    assert result.length.tolist() == [[3, 5, 7, 3]]


def test_scores_are_sums_of_the_true_rewards():
    """Reset rows count neither as a step nor for the score."""
    result = evaluate(counting_env([2, 5]), CountingActor(), 4, 0)
    # env 0 acts at calls 0 1, resets at 2, acts at 3 4; env 1 acts at calls 0 … 4, resets at 5,
    # acts at 6 … 10
    expected = [[0 + 1, 0 + 1 + 2 + 0 + 1 + 5 * 0.01, 0 + 1, 0 + 1 + 2 + 0 + 1 + 5 * 0.01]]
    np.testing.assert_allclose(result.score, expected, rtol=1e-5)


def test_contexts_are_cleared_at_the_start_and_at_every_end_of_their_own():
    env, actor = counting_env([2, 5], [3]), CountingActor()
    evaluate(env, actor, 2, 0)
    (calls, everyone), *later = actor.forgotten
    assert calls == 0 and everyone.all()
    for (
        calls,
        ended,
    ) in later:  # after step n: an episode of L steps and its reset row take L + 1 steps
        assert ended.tolist() == [calls % (length + 1) in (0, length) for length in (2, 5, 3)]
    assert [calls for calls, _ in later] == list(range(1, actor.calls + 1))


def test_progress_is_told_after_every_step():
    told = []
    actor = CountingActor()
    evaluate(
        counting_env([2, 5], [3]),
        actor,
        2,
        0,
        on_step=lambda done, wanted: told.append((done, wanted)),
    )
    assert len(told) == actor.calls
    assert told[-1] == (4, 4) and told[0] == (0, 4)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


class FakeScreen:
    """Notes what it is told; its pictures show the number of steps."""

    frames_per_second = 15

    def __init__(self) -> None:
        self.seed, self.actions, self.closed = None, [], False

    def reset(self, seed: int) -> np.ndarray:
        self.seed = seed
        return self._picture()

    def step(self, action: int) -> np.ndarray:
        assert not self.closed
        self.actions.append(action)
        return self._picture()

    def close(self) -> None:
        self.closed = True

    def _picture(self) -> np.ndarray:
        return np.full((4, 6, 3), len(self.actions), np.uint8)


def test_the_first_episode_of_a_task_with_a_screen_is_filmed():
    """From the first picture to the last, with the actions of the task's first environment."""
    screen = FakeScreen()
    frames: list[np.ndarray] = []
    film = Film(screen, frames.append)
    result = evaluate(counting_env([5], [4, 2]), CountingActor(), 4, 11, films={3: film})
    assert screen.closed and screen.seed == task_seed(11, 3)
    assert screen.actions == [0, 1, 2, 0]
    assert [frame[0, 0, 0] for frame in frames] == [0, 1, 2, 3, 4]
    assert len(frames) == result.length[1, 0] + 1


def cartpole_env() -> MultiTaskVectorEnv:
    def poles(count: int) -> VectorEnv:
        make = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=25)] * count
        return SyncVectorEnv(make, autoreset_mode=AutoresetMode.NEXT_STEP)

    return MultiTaskVectorEnv(
        [TaskEnv(poles(2), 0, "one", "vector"), TaskEnv(poles(1), 1, "two", "vector")],
        num_actions=3,
        observation_shape=(4,),
    )


def make_policy(
    env: MultiTaskVectorEnv, config: ExperimentConfig = CONFIG, seed: int = 0
) -> UniZeroMTPolicy:
    torch.manual_seed(seed)
    policy = UniZeroMTPolicy(config, env.observation_shape, np.ones((2, env.num_actions), bool))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def evaluate_cartpole(policy: UniZeroMTPolicy, seed: int) -> Evaluation:
    env = cartpole_env()
    result = evaluate(env, Actor(policy, env.task_id, env.legal_actions, None), 4, seed)
    env.close()
    return result


def test_the_same_seed_gives_the_same_result():
    policy = make_policy(cartpole_env())
    first, again, other = (evaluate_cartpole(policy, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.length, again.length)
    np.testing.assert_array_equal(first.score, again.score)
    assert (first.length != other.length).any()
    np.testing.assert_array_equal(first.score, first.length)  # CartPole pays 1 per step


class Training:
    """Collecting and learning on a small scale."""

    def __init__(self) -> None:
        self.env = cartpole_env()
        self.policy = make_policy(self.env)
        self.rngs = {"act": np.random.default_rng(1), "replay": np.random.default_rng(2)}
        self.replay = ReplayBuffer(self.env.task_id, 300, (4,), np.float32, 3, CONFIG.policy.window)
        actor = Actor(self.policy, self.env.task_id, self.env.legal_actions, self.rngs["act"])
        self.collector = Collector(self.env, actor, self.replay, PhaseTimer())
        self.collector.begin(9)

    def go_on(self) -> torch.Tensor:
        self.collector.collect(12)
        return self.policy.learn(self.replay.sample({0: 4, 1: 4}, self.rngs["replay"])).task_means

    def state(self) -> dict[str, object]:
        model = {f"model/{name}": t.clone() for name, t in self.policy.model.state_dict().items()}
        buffers = {f"buffer/{name}": t.clone() for name, t in self.policy.model.named_buffers()}
        target = {
            f"target/{name}": t.clone() for name, t in self.policy.target.state_dict().items()
        }
        generators = {
            name: copy.deepcopy(rng.bit_generator.state) for name, rng in self.rngs.items()
        }
        return (
            model
            | buffers
            | target
            | generators
            | {
                "torch": torch.get_rng_state(),
                "numpy": np.random.get_state()[1].copy(),
                "grad": [parameter.grad for parameter in self.policy.model.parameters()],
                "requires_grad": [
                    parameter.requires_grad for parameter in self.policy.model.parameters()
                ],
                "training": [module.training for module in self.policy.model.modules()],
                "head": self.replay.head,
            }
        )


def test_evaluation_leaves_no_trace():
    """Neither in parameters, buffers and generators, nor in what training does afterwards."""
    disturbed, left_alone = Training(), Training()
    for training in (disturbed, left_alone):
        torch.manual_seed(3)
        training.go_on()
    before = disturbed.state()
    result = evaluate_cartpole(disturbed.policy, 1)
    assert result.length.min() > 0
    after = disturbed.state()
    for name, value in before.items():
        equal = torch.equal if isinstance(value, torch.Tensor) else np.array_equal
        assert equal(value, after[name]), name
    for _ in range(2):
        outcomes = [training.go_on() for training in (disturbed, left_alone)]
        assert torch.equal(*outcomes)
    windows = [
        training.replay.sample({0: 50, 1: 50}, np.random.default_rng(0))
        for training in (disturbed, left_alone)
    ]
    for name, value in vars(windows[0]).items():
        assert torch.equal(value, getattr(windows[1], name)), name
    for training in (disturbed, left_alone):
        training.env.close()


POINTS_SEED = 2  # of a policy that makes points in so few steps
ATARI_CONFIG = ExperimentConfig.model_validate(
    {
        **SMALL,
        "env": {"games": ("Boxing", "Enduro"), "num_eval_envs": 2, "max_episode_steps": 80},
        "model": {**SMALL["model"], "encoder": {"kind": "resnet", "widths": (8, 8)}},
        "policy": {**SMALL["policy"], "search": {"num_eval_simulations": 2}},
    }
)


def test_the_filmed_twin_plays_the_evaluated_episode():
    """On Atari: as many pictures as steps, and the same score at the end of the film."""
    config, games = ATARI_CONFIG, ATARI_CONFIG.env.games
    env = ATARI.make(
        config.env, games, (0, 1), (2, 2), env_offsets=(0, 0), training=False, num_threads=1
    )
    policy = make_policy(env, config, POINTS_SEED)
    screens = {task: ATARI.make_screen(config.env, game) for task, game in enumerate(games)}
    scores = dict.fromkeys(screens, 0.0)
    ends = dict.fromkeys(screens, 0)
    for task, screen in screens.items():

        def step(action: int, task: int = task, step=screen.step) -> np.ndarray:
            picture = step(action)
            scores[task] += screens[task].raw_reward
            ends[task] += screens[task].episode_over
            return picture

        screen.step = step
    actor = Actor(policy, env.task_id, env.legal_actions, None)
    filmed: dict[int, list[np.ndarray]] = {task: [] for task in screens}
    films = {task: Film(screen, filmed[task].append) for task, screen in screens.items()}
    result = evaluate(env, actor, 2, 4, films=films)
    for task in (0, 1):
        frames = filmed[task]
        assert len(frames) == result.length[task, 0] + 1 == 81
        assert all(frame.shape == (210, 160, 3) and frame.dtype == np.uint8 for frame in frames)
        assert len({frame.tobytes() for frame in frames}) > 20, "the film moves"
        assert scores[task] == result.score[task, 0]
        assert ends[task] == 1
        assert screens[task].frames_per_second == 15
    assert any(scores.values()), "points were made, else equal scores would say little"
    env.close()
