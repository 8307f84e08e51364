"""Joining vector envs: padding, stream semantics against a naive reference, overlap, refusals."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from lzero.envs import MultiTaskVectorEnv, TaskEnv, task_seed
from lzero.envs.answers import EnvironmentFaultError


@dataclass
class Episode:
    """One scripted environment. Life losses and the end depend on the step number, rewards on the
    action."""

    index: int
    length: int
    limit: int
    number: int = 0
    time: int = 0

    def observe(self) -> list[float]:
        return [self.index, self.number, self.time]

    def lives(self) -> int:
        # A new game may begin with fewer lives than the one before ended with: that is no loss.
        return 3 + 2 * (self.number % 2) - min(1, self.time // 2)

    def begin(self) -> None:
        self.number, self.time = self.number + 1, 0

    def act(self, action: int) -> tuple[float, bool, bool]:
        self.time += 1
        length = self.length + self.number % 2
        return 2.5 * (action - 1), self.time == length, self.time == self.limit


class ScriptedVectorEnv(VectorEnv):
    """n scripted episodes with autoreset NEXT_STEP."""

    def __init__(
        self, lengths: list[int], limit: int = 6, actions: int = 3, with_lives: bool = True
    ) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = len(lengths)
        self.single_observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.single_action_space = Discrete(actions)
        self.episodes = [Episode(index, length, limit) for index, length in enumerate(lengths)]
        self.done = np.zeros(self.num_envs, bool)
        self.with_lives = with_lives
        self.seen_seed: int | None = None

    def reset(self, *, seed=None, options=None):
        self.seen_seed = seed
        for episode in self.episodes:
            episode.begin()
        self.done[:] = False
        return self._observe(), self._info()

    def step(self, actions):
        rewards, ends, cuts = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), bool)
        for i, episode in enumerate(self.episodes):
            if self.done[i]:
                episode.begin()
            else:
                rewards[i], ends[i], cuts[i] = episode.act(int(actions[i]))
        self.done = ends | cuts
        return self._observe(), rewards, ends, cuts, self._info()

    def _observe(self):
        return np.array([episode.observe() for episode in self.episodes], np.float32)

    def _info(self):
        return {"lives": np.array([e.lives() for e in self.episodes])} if self.with_lives else {}


class PictureVectorEnv(VectorEnv):
    """Returns one given picture per environment."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = len(pictures)
        self.single_observation_space = Box(0, 255, pictures.shape[1:], pictures.dtype)
        self.single_action_space = Discrete(2)
        self.pictures = pictures

    def reset(self, *, seed=None, options=None):
        return self.pictures, {}

    def step(self, actions):
        nothing = np.zeros(self.num_envs)
        self.pictures = self.pictures + 1
        return self.pictures, nothing, nothing > 0, nothing > 0, {}


def scripted(task_id: int = 0, *, clip: bool = False, cut: bool = False, **options) -> TaskEnv:
    env = ScriptedVectorEnv(options.pop("lengths", [3, 9]), **options)
    return TaskEnv(
        env, task_id, f"scripted{task_id}", "vector", clip_reward=clip, end_on_life_loss=cut
    )


def pictured(task_id: int, pictures: np.ndarray, layout: str) -> TaskEnv:
    return TaskEnv(PictureVectorEnv(pictures), task_id, f"pictures{task_id}", layout)


def test_stream_equals_naive_reference() -> None:
    """Every field of every row, over ends, time limits, both at once, lost lives, and both learning
    flags."""
    lengths, limit = [[3, 9, 6], [1, 5], [4, 6]], 6
    flags = [(True, True), (False, False), (False, True)]
    env = MultiTaskVectorEnv(
        [
            scripted(t, lengths=lengths[t], limit=limit, clip=flags[t][0], cut=flags[t][1])
            for t in range(3)
        ]
    )
    rng = np.random.default_rng(0)
    step = env.reset(7)
    assert step.reset.all() and not (
        step.reward.any() or step.terminated.any() or step.episode_over.any()
    )

    alone = [(Episode(i, n, limit), *flags[t]) for t in range(3) for i, n in enumerate(lengths[t])]
    over = [False] * len(alone)
    for episode, *_ in alone:
        episode.begin()
    seen = {name: 0 for name in ("reset", "terminated", "truncated", "life")}
    for _ in range(60):
        actions = rng.integers(0, 3, env.num_envs)
        step = env.step(actions)
        for i, (episode, clip, cut) in enumerate(alone):
            was_over, lives = over[i], episode.lives()
            raw, ended, timed_out = 0.0, False, False
            if was_over:
                episode.begin()
            else:
                raw, ended, timed_out = episode.act(int(actions[i]))
            life_lost = cut and not was_over and episode.lives() < lives
            over[i] = ended or timed_out
            assert step.observation[i].tolist() == episode.observe()
            assert step.raw_reward[i] == raw
            assert step.reward[i] == (np.sign(raw) if clip else raw)
            assert step.terminated[i] == (ended or life_lost)
            assert step.truncated[i] == (timed_out and not (ended or life_lost))
            assert step.episode_over[i] == over[i]
            assert step.reset[i] == was_over
            seen["reset"] += was_over
            seen["terminated"] += ended
            seen["truncated"] += bool(step.truncated[i])
            seen["life"] += life_lost and not over[i]
    assert min(seen.values()) > 5
    assert step.reward.dtype == step.raw_reward.dtype == np.float32


def test_reset_forgets_what_ran_before() -> None:
    env = MultiTaskVectorEnv([scripted(lengths=[1, 9], cut=True)])
    env.reset(0)
    for _ in range(3):
        env.step(np.zeros(2, np.int64))
    step = env.reset(0)
    assert step.reset.all()
    step = env.step(np.zeros(2, np.int64))
    assert not step.reset.any() and not step.terminated[1]


def test_layouts_give_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    chw = rng.integers(0, 255, (2, 6, 5, 4), np.uint8)
    hwc = np.ascontiguousarray(chw.transpose(0, 2, 3, 1))
    frames = np.ascontiguousarray(hwc.reshape(2, 5, 4, 2, 3).transpose(0, 3, 1, 2, 4))
    env = MultiTaskVectorEnv(
        [pictured(0, chw, "chw"), pictured(1, hwc, "hwc"), pictured(2, frames, "frames_hwc")]
    )
    observation = env.reset(0).observation
    assert env.observation_shape == (6, 5, 4) and env.observation_dtype == np.uint8
    for rows in env.rows:
        np.testing.assert_array_equal(observation[rows], chw)


def test_pictures_are_a_channels_last_view_with_zero_channels() -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(1, 255, (2, 3, 8, 8), np.uint8)
    grey = rng.integers(1, 255, (1, 8, 8, 1), np.uint8)
    observation = (
        MultiTaskVectorEnv([pictured(0, colour, "chw"), pictured(1, grey, "hwc")])
        .reset(0)
        .observation
    )
    assert observation.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(observation[2, 0], grey[0, :, :, 0])
    assert not observation[2, 1:].any()
    tensor = torch.from_numpy(observation)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert tensor.data_ptr() == observation.ctypes.data


def test_answers_stay_valid_after_the_next_step() -> None:
    env = MultiTaskVectorEnv(
        [
            pictured(0, np.zeros((2, 3, 4, 4), np.uint8), "chw"),
        ]
    )
    kept = [env.reset(0)] + [env.step(np.zeros(2, np.int64)) for _ in range(3)]
    assert [step.observation[0, 0, 0, 0] for step in kept] == [0, 1, 2, 3]
    assert [step.reset.all() for step in kept] == [True, False, False, False]


@pytest.mark.parametrize("names", [("send", "recv"), ("step_async", "step_wait")])
def test_all_tasks_start_before_one_is_awaited(names: tuple[str, str]) -> None:
    log: list[str] = []

    def send(self, actions):
        log.append("send")
        self.answer = ScriptedVectorEnv.step(self, actions)

    def receive(self):
        log.append("receive")
        return self.answer

    overlapping = type("Overlapping", (ScriptedVectorEnv,), {names[0]: send, names[1]: receive})
    env = MultiTaskVectorEnv([TaskEnv(overlapping([9]), t, str(t), "vector") for t in range(3)])
    env.reset(0)
    env.step(np.zeros(3, np.int64))
    assert log == ["send"] * 3 + ["receive"] * 3


def test_wrapper_around_an_overlapping_env_is_not_bypassed() -> None:
    class Sending(ScriptedVectorEnv):
        def send(self, actions):
            raise AssertionError("went around the wrapper")

        recv = send

    class Doubled(VectorWrapper):
        def __getattr__(self, name):
            return getattr(self.env, name)

        def step(self, actions):
            observation, reward, *rest = self.env.step(actions)
            return observation, 2 * reward, *rest

    env = MultiTaskVectorEnv([TaskEnv(Doubled(Sending([9])), 0, "doubled", "vector")])
    env.reset(0)
    assert env.step(np.array([2])).raw_reward.tolist() == [5.0]


def test_seeds_depend_on_seed_and_task_only() -> None:
    alone, joint = [scripted(5)], [scripted(3), scripted(5)]
    MultiTaskVectorEnv(alone).reset(1)
    MultiTaskVectorEnv(joint).reset(1)
    assert alone[0].env.seen_seed == joint[1].env.seen_seed == task_seed(1, 5)
    seeds = [task_seed(seed, task) for seed in range(40) for task in range(26)]
    shared = replace(scripted(5), env_offset=4)
    MultiTaskVectorEnv([shared]).reset(1)
    assert shared.env.seen_seed == task_seed(1, 5) + 4
    gaps = np.diff(np.sort(seeds))
    assert gaps.min() > 64, "environments of two tasks or two runs share seeds"
    assert 0 <= min(seeds) and max(seeds) < 2**31 - 2**20


@pytest.mark.parametrize("actions", [[0, 3, 0], [0, 0, 2], [-1, 0, 0]])
def test_refuses_actions_outside_the_task_s_set(actions: list[int]) -> None:
    env = MultiTaskVectorEnv([scripted(0, actions=3), scripted(1, actions=2, lengths=[4])])
    env.reset(0)
    row = next(i for i, action in enumerate(actions) if action not in range(3 if i < 2 else 2))
    with pytest.raises(ValueError, match=rf"actions\[{row}\]=.*scripted{0 if row < 2 else 1}"):
        env.step(np.array(actions))


@pytest.mark.parametrize(
    "actions", [np.zeros(2, np.int32), np.zeros(3, np.int64), np.zeros((2, 1), np.int64)]
)
def test_refuses_actions_of_wrong_shape_or_dtype(actions: np.ndarray) -> None:
    env = MultiTaskVectorEnv([scripted()])
    env.reset(0)
    with pytest.raises(ValueError, match=r"allowed is shape \(2,\) and dtype int64"):
        env.step(actions)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_refuses_other_autoreset_modes(mode: AutoresetMode) -> None:
    env = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=mode)
    with pytest.raises(ValueError, match=f"'pole'.*{mode}.*NEXT_STEP"):
        MultiTaskVectorEnv([TaskEnv(env, 0, "pole", "vector")])


def test_refuses_an_env_that_does_not_state_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when another env wrote its mode into the dictionary shared by all classes, as ale_py
    does."""
    monkeypatch.setitem(VectorEnv.metadata, "autoreset_mode", AutoresetMode.NEXT_STEP)
    task = scripted()
    del task.env.metadata
    with pytest.raises(ValueError, match="not stated"):
        MultiTaskVectorEnv([task])


def test_refuses_missing_lives() -> None:
    env = MultiTaskVectorEnv([scripted(with_lives=False, cut=True)])
    with pytest.raises(ValueError, match=r"'scripted0'.*info\['lives'\]"):
        env.reset(0)
    MultiTaskVectorEnv([scripted(with_lives=False)]).reset(0)


def picture(task_id: int, *shape: int, dtype: type = np.uint8, layout: str = "hwc") -> TaskEnv:
    return pictured(task_id, np.zeros((1, *shape), dtype), layout)


def bright(low: float, high: float) -> TaskEnv:
    task = picture(0, 8, 8, 3, dtype=np.float32)
    task.env.single_observation_space = Box(low, high, (8, 8, 3), np.float32)
    return task


def strange_actions(space: gymnasium.Space) -> TaskEnv:
    task = scripted()
    task.env.single_action_space = space
    return task


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], {}, "at least one"),
        ([scripted(1), scripted(1)], {}, "task_id 1.*taken"),
        ([scripted(0), picture(1, 8, 8, 3)], {}, "cannot share one batch"),
        ([picture(0, 8, 8, 3), picture(1, 8, 9, 3)], {}, r"'pictures1'.*\(8, 9\).*\(8, 8\)"),
        ([picture(0, 8, 8, 3), picture(1, 8, 8, 3, dtype=np.float32)], {}, "'pictures1'.*float32"),
        ([picture(0, 8, 8, 3, dtype=np.int64)], {}, "int64.*uint8 or float32"),
        (
            [bright(0.0, 255.0)],
            {},
            "float32 images from 0 to 255 by their Box.*convert them to uint8",
        ),
        ([bright(-np.inf, np.inf)], {}, "float32 images from -inf to inf.*state the bounds"),
        ([picture(0, 8, 8)], {}, "needs a Box of 3 dimensions"),
        ([picture(0, 8, 8, 3, layout="hcw")], {}, "unknown layout 'hcw'"),
        ([strange_actions(Discrete(3, start=1))], {}, "Discrete from 0"),
        ([strange_actions(MultiDiscrete([2, 2]))], {}, "Discrete from 0"),
        (
            [replace(scripted(0), legal_actions=())],
            {},
            r"legal_actions \(\); give at least one of 0 to 2",
        ),
        (
            [replace(scripted(0), legal_actions=(1, 3))],
            {},
            r"legal_actions \(1, 3\); give at least one of 0 to 2",
        ),
        ([scripted(0, actions=3)], {"num_actions": 2}, "num_actions=2.*'scripted0'.*3 or more"),
        ([scripted(0)], {"observation_shape": (2,)}, r"observation_shape\[0\]=2.*3 or more"),
        ([picture(0, 8, 8, 3)], {"observation_shape": (3, 9, 8)}, r"\(8, 8\), allowed is \(9, 8\)"),
    ],
)
def test_refuses_tasks_that_cannot_be_joined(
    tasks: list[TaskEnv], options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskVectorEnv(tasks, **options)


def test_close_releases_the_environments() -> None:
    task = scripted()
    released = weakref.ref(task.env)
    env = MultiTaskVectorEnv([task])
    env.reset(0)
    env.close()
    env.close()
    del task
    gc.collect()
    assert released() is None
    for use in (lambda: env.reset(0), lambda: env.step(np.zeros(2, np.int64))):
        with pytest.raises(ValueError, match="closed"):
            use()


def answered(monkeypatch: pytest.MonkeyPatch, place: int, answer: object) -> MultiTaskVectorEnv:
    """An env whose second step has ``answer`` at a place of (observation, reward, terminated, truncated, info)."""
    task = scripted()
    env = MultiTaskVectorEnv([task])
    env.reset(0)
    env.step(np.zeros(task.env.num_envs, np.int64))
    step = type(task.env).step

    def broken(self, actions):
        good = list(step(self, actions))
        good[place] = answer(good[place]) if callable(answer) else answer
        return tuple(good)

    monkeypatch.setattr(type(task.env), "step", broken)
    return env


def at(index: int, value: float):
    def changed(values: np.ndarray) -> np.ndarray:
        values = np.array(values, copy=True)
        values[index] = value
        return values

    return changed


@pytest.mark.parametrize(
    ("place", "answer", "message"),
    [
        (1, at(1, np.nan), r"environment 1 of game '.*' answered reward nan; .*neither stored"),
        (1, at(0, -np.inf), r"environment 0 of game '.*' answered reward -inf"),
        (1, lambda values: values[:1], r"reward of shape \(1,\); expected is"),
        (1, lambda values: values[0], r"reward of shape \(\)"),
        (2, lambda values: values[:, None], r"terminated of shape"),
        (3, lambda values: values + 2, r"truncated .*expected are booleans"),
        (0, lambda values: values[:1], r"answered observations .* announces"),
        (0, lambda values: values.astype(np.float64), r"answered observations float64"),
    ],
)
def test_what_an_environment_must_not_answer_is_refused(monkeypatch, place, answer, message):
    env = answered(monkeypatch, place, answer)
    with pytest.raises(EnvironmentFaultError, match=message):
        env.step(np.zeros(env.num_envs, np.int64))


def test_observations_that_are_no_numbers_are_refused():
    class Broken(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(3, np.float32), {}

        def step(self, action):
            return np.array([0, np.nan, 0], np.float32), 0.0, False, False, {}

    envs = SyncVectorEnv([Broken] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    env = MultiTaskVectorEnv([TaskEnv(envs, 0, "Broken", "vector", env_offset=4)])
    env.reset(0)
    with pytest.raises(
        EnvironmentFaultError, match="environment 4 of game 'Broken' answered observation nan"
    ):
        env.step(np.zeros(3, np.int64))


def test_errors_of_an_environment_name_the_game_and_the_place(monkeypatch):
    def fail(values):
        raise ZeroDivisionError("in the game")

    env = answered(monkeypatch, 1, fail)
    with pytest.raises(
        EnvironmentFaultError,
        match=r"game '.*' failed: ZeroDivisionError: in the game \(.*test_multitask.py:\d+\)",
    ):
        env.step(np.zeros(env.num_envs, np.int64))
