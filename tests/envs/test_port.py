"""Environments are brought back to where they were, in every domain that ships."""

import numpy as np
import pytest

from lzero.config import ExperimentConfig
from lzero.envs import MultiTaskVectorEnv
from lzero.envs.domain import load_domain, with_domain_settings
from lzero.envs.multitask import EnvStep, NotTheSameError

CATCH = {"domain": "zoo.catch.domain:CATCH", "games": ("Catch", "MirroredCatch")}
MINATAR = {
    "domain": "zoo.minatar.domain:MINATAR",
    "games": ("Breakout", "Asterix", "SpaceInvaders", "Freeway", "Seaquest"),
    "sticky_action_probability": 0.2,
    "max_episode_steps": 90,
}
CLASSIC = {
    "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
    "games": ("Acrobot-v1", "MountainCar-v0"),
    "max_episode_steps": 60,
}
ATARI = {
    "domain": "zoo.atari.domain:ATARI",
    "games": ("Breakout", "Krull"),
    "max_episode_steps": 70,
}
ATARI_STACKED = ATARI | {
    "games": ("Pong",),
    "sticky_action_probability": 0.25,
    "frame_stack": 4,
    "grayscale": True,
}
GYM = {
    "domain": "gym",
    "games": ("CartPole-v1", "Acrobot-v1"),
    "max_episode_steps": 60,
}
GYM_ATARI = {"domain": "gym", "games": ("ALE/Breakout-v5",), "image_size": 32}
DOMAINS = {
    "catch": (CATCH, 60),
    "minatar": (MINATAR, 200),
    "classic": (CLASSIC, 150),
    "atari": (ATARI, 160),
    "atari, sticky, four gray frames": (ATARI_STACKED, 90),
    "gym": (GYM, 150),
    "gym, sticky Atari": (GYM_ATARI, 250),
}
each_domain = pytest.mark.parametrize(("env", "steps"), DOMAINS.values(), ids=DOMAINS.keys())


def made(env: dict) -> MultiTaskVectorEnv:
    games, domain = env["games"], load_domain(env["domain"])
    config: ExperimentConfig = with_domain_settings({"env": env})
    tasks = range(len(games))
    return domain.make(
        config.env,
        games,
        tasks,
        [3] * len(games),
        env_offsets=[0] * len(games),
        training=True,
        num_threads=1,
    )


def played(env: MultiTaskVectorEnv, rng: np.random.Generator, steps: int) -> list[EnvStep]:
    scores = env.legal_actions * rng.random((steps, *env.legal_actions.shape))
    return [env.step(action) for action in scores.argmax(axis=2)]


def assert_same(one: EnvStep, other: EnvStep) -> None:
    for name in EnvStep.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@each_domain
@pytest.mark.parametrize("reseed_after", [0, 40, 10_000])
def test_goes_on_as_if_nothing_had_happened(env: dict, steps: int, reseed_after: int) -> None:
    undisturbed, again = made(env), made(env)
    for port in [*undisturbed._ports, *again._ports]:
        port.reseed_after = reseed_after
    undisturbed.reset(5)
    rng = np.random.default_rng(0)
    before = played(undisturbed, rng, steps)
    assert sum(step.episode_over.sum() for step in before) >= undisturbed.num_envs, (
        "several episodes"
    )

    state = undisturbed.state()
    assert state is not None
    shortest = min(state[f"{task}/steps"].min() for task in undisturbed.task_id)
    assert shortest < steps or reseed_after > steps
    np.testing.assert_array_equal(again.restore(state), before[-1].observation)
    state_again = again.state()
    assert state_again is not None and state_again.keys() == state.keys()
    for name, values in state.items():
        np.testing.assert_array_equal(state_again[name], values, err_msg=name)

    actions = np.random.default_rng(1)
    for one, other in zip(
        played(undisturbed, actions, steps),
        played(again, np.random.default_rng(1), steps),
        strict=True,
    ):
        assert_same(one, other)
    undisturbed.close()
    again.close()


def test_goes_on_from_every_moment() -> None:
    """Also where an episode has just ended, just begun, and where nothing was played."""
    env = made(CATCH)
    env.reset(2)
    for _ in range(20):
        again = made(CATCH)
        state = env.state()
        assert state is not None
        again.restore(state)
        one, other = (played(e, np.random.default_rng(3), 9) for e in (env, again))
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
        env.restore(state)  # back
        played(env, np.random.default_rng(4), 1)


def test_other_settings_are_noticed() -> None:
    env, other = made(MINATAR), made(MINATAR | {"sticky_action_probability": 0.0})
    env.reset(0)
    played(env, np.random.default_rng(0), 50)
    state = env.state()
    assert state is not None
    with pytest.raises(NotTheSameError, match=r"of 15 environments \(.*Breakout.*ended elsewhere"):
        other.restore(state)
    other.reset(0)  # and it can still be used
    played(other, np.random.default_rng(0), 5)


def test_no_promise_no_state() -> None:
    env = made({"domain": "zoo.classic_control.domain:CLASSIC_CONTROL", "games": ("CartPole-v1",)})
    env.reset(0)
    assert env.state() is None
    with pytest.raises(RuntimeError, match="cannot be brought back"):
        env.restore({"0/seeds": np.zeros(3)})


def test_episodes_differ_between_seeds_and_environments() -> None:
    """A seed of one's own for later episodes: no two environments share it, and it follows from the first."""
    env = made(MINATAR)
    env._ports[0].reseed_after = 0
    firsts = []
    for seed in (0, 1):
        env.reset(seed)
        steps = played(env, np.random.default_rng(0), 400)
        starts = [step.observation[row] for step in steps for row in range(3) if step.reset[row]]
        firsts.append(np.stack(starts))
    assert len(firsts[0]) > 20
    assert len(np.unique(firsts[0], axis=0)) > 1, "Breakout's ball starts on either side"


@pytest.mark.parametrize(
    "env",
    [CATCH, MINATAR, CLASSIC, ATARI, GYM],
    ids=["catch", "minatar", "classic", "atari", "gym"],
)
def test_the_time_limit_holds_in_every_domain(env: dict) -> None:
    """Whatever the domain makes of it: the library cuts, another episode begins, and the run can be continued."""
    undisturbed, again = made(env), made(env)
    tasks = dict.fromkeys(range(len(env["games"])), 5)
    for each in (undisturbed, again):
        each.limit_episodes(tasks)
    undisturbed.reset(1)
    rng = np.random.default_rng(0)
    steps = played(undisturbed, rng, 16)
    length = np.zeros(undisturbed.num_envs, np.int64)
    for step in steps:
        length = np.where(step.reset, 0, length + 1)
        assert length.max() <= 5 and not step.raw_reward[step.reset].any()
        np.testing.assert_array_equal(step.episode_over & ~step.terminated, step.truncated)
        assert step.episode_over[length == 5].all()
    assert sum(step.truncated.sum() for step in steps) >= undisturbed.num_envs
    starts = [step.observation[step.reset] for step in steps if step.reset.any()]
    assert starts and all(frame.any() for frame in starts)

    state = undisturbed.state()
    assert state is not None
    again.restore(state)
    actions = np.random.default_rng(1)
    for one, other in zip(
        played(undisturbed, actions, 12), played(again, np.random.default_rng(1), 12), strict=True
    ):
        assert_same(one, other)


def test_environments_that_cannot_be_seeded_alone_play_on() -> None:
    env = made(
        {
            "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
            "games": ("CartPole-v1",),
            "max_episode_steps": 500,
        }
    )
    env.limit_episodes({0: 3})
    env.reset(0)
    steps = played(env, np.random.default_rng(0), 8)
    assert [bool(step.truncated.all()) for step in steps] == [
        False,
        False,
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert [bool(step.reset.all()) for step in steps] == [
        False,
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert not any(step.raw_reward[step.reset].any() for step in steps)
