"""MinAtar: one stream per seed, sticky actions, ends of episodes, padding, pictures."""

from collections.abc import Iterator, Sequence
from typing import Any

import minatar
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from pydantic import ValidationError

from lzero.envs import MultiTaskVectorEnv, task_seed
from lzero.envs.domain import with_domain_settings
from zoo.minatar.config.presets import THREE
from zoo.minatar.domain import MINATAR, MinAtarEnvConfig
from zoo.minatar.envs import GAMES, NUM_ACTIONS, MinAtarScreen, MinAtarVectorEnv, game_shape

Row = tuple[np.ndarray, float, bool, bool]
"""Observation ``(10, 10, C)``, reward, terminated, truncated."""


def random_actions(
    steps: int, envs: int, num_actions: int = NUM_ACTIONS, seed: int = 0
) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_actions, (steps, envs))


def play(env: MinAtarVectorEnv, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Observations, rewards, terminated, truncated: ``(time, n, ...)``, without the first reset."""
    return tuple(
        np.array(column) for column in zip(*(env.step(row)[:4] for row in actions), strict=True)
    )


def reference(
    name: str, seed: int, actions: Sequence[int], limit: int, sticky: float
) -> Iterator[Row]:
    """What one environment should answer, in the package's own terms."""
    game = minatar.Environment(GAMES[name], sticky_action_prob=sticky)
    game.seed(seed)
    game.reset()
    steps, over = 0, False
    for action in actions:
        if over:
            game.reset()
            game.last_action = 0
            steps, over = 0, False
            yield game.state() * 255, 0.0, False, False
            continue
        reward, dead = game.act(action)
        steps += 1
        late = steps == limit and not dead
        over = dead or late
        yield game.state() * 255, reward, dead, late


def make(
    games: Sequence[str], tasks: Sequence[int], count: int = 2, **settings: Any
) -> MultiTaskVectorEnv:
    config = MinAtarEnvConfig(games=tuple(games), clip_reward=False, **settings)
    counts, offsets = [count] * len(tasks), [0] * len(tasks)
    return MINATAR.make(
        config, games, tasks, counts, env_offsets=offsets, training=False, num_threads=1
    )


@pytest.mark.parametrize("name", GAMES)
def test_every_environment_plays_as_the_package_does(name: str) -> None:
    """Through deaths, time limits and reset rows; environment j has the seed of the first one plus
    j."""
    limit, sticky, actions = 20 if name == "Breakout" else 45, 0.3, random_actions(300, 3)
    env = MinAtarVectorEnv(name, 3, max_episode_steps=limit, sticky=sticky)
    for _ in range(2):  # a seeded reset in the middle of a game starts the same stream over
        first, info = env.reset(seed=11)
        assert first.dtype == np.uint8 and first.shape == env.observation_space.shape and info == {}
        observation, reward, terminated, truncated = play(env, actions)
        for j in range(3):
            expected = zip(
                *reference(name, 11 + j, actions[:, j].tolist(), limit, sticky), strict=True
            )
            for got, wanted in zip(
                (observation, reward, terminated, truncated), expected, strict=True
            ):
                np.testing.assert_array_equal(got[:, j], np.array(wanted))
    assert truncated.any() and not (truncated & terminated).any()
    assert terminated.any() == (name != "Freeway")
    assert set(np.unique(observation)) == {0, 255}


@pytest.mark.parametrize("name", GAMES)
def test_spaces_tell_the_truth(name: str) -> None:
    env = MinAtarVectorEnv(name, 2)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert (
        env.single_action_space.n
        == NUM_ACTIONS
        == len(minatar.Environment(GAMES[name]).env.action_map)
    )
    env.action_space.seed(0)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    for _ in range(5):
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])


def test_a_reset_without_seed_continues_the_streams() -> None:
    def streams() -> list[np.ndarray]:
        env, actions = MinAtarVectorEnv("Asterix", 2), random_actions(60, 2)
        env.reset(seed=5)
        first = play(env, actions)[0]
        env.reset()
        return [first, play(env, actions)[0]]

    once, again = streams(), streams()
    np.testing.assert_array_equal(once, again)
    assert (once[0] != once[1]).any()


@pytest.mark.parametrize("sticky", [0.0, 0.25, 1.0])
def test_sticky_steps_repeat_the_executed_action(sticky: float) -> None:
    """As often as asked; an episode's first step can only repeat "nothing", whatever ended the one
    before."""
    env = MinAtarVectorEnv("Breakout", 4, sticky=sticky)
    executed: list[list[int]] = [[] for _ in range(4)]
    for game, log in zip(env._games, executed, strict=True):

        def act(action: int, act=game.env.act, log=log) -> tuple[float, bool]:
            log.append(action)
            return act(action)

        game.env.act = act
    env.reset(seed=0)
    asked = random_actions(2000, 4)
    over, previous = np.zeros(4, bool), np.zeros(4, int)
    repeated = telling = 0
    for row in asked:
        before = [len(log) for log in executed]
        _, _, terminated, truncated, _ = env.step(row)
        for j, log in enumerate(executed):
            assert len(log) - before[j] == (not over[j]), "a reset row plays nothing"
            if over[j]:
                previous[j] = 0
                continue
            assert log[-1] in (row[j], previous[j])
            telling += row[j] != previous[j]
            repeated += log[-1] != row[j]
            previous[j] = log[-1]
        over = terminated | truncated
    assert telling > 1000
    assert repeated / telling == pytest.approx(sticky, abs=0.04 if sticky == 0.25 else 0)


def test_a_death_at_the_time_limit_is_a_death() -> None:
    env = MinAtarVectorEnv("Breakout", 1, sticky=0.0)
    env.reset(seed=0)
    nothing = np.zeros((50, 1), int)
    death = int(play(env, nothing)[2].argmax()) + 1
    for limit, dead in ((death - 1, False), (death, True), (death + 1, True)):
        env = MinAtarVectorEnv("Breakout", 1, sticky=0.0, max_episode_steps=limit)
        env.reset(seed=0)
        _, _, terminated, truncated = play(env, nothing[: min(limit, death)])
        assert (bool(terminated[-1]), bool(truncated[-1])) == (dead, not dead)
        assert not terminated[:-1].any() and not truncated[:-1].any()


def test_freeway_is_truncated_before_its_hidden_clock_kills() -> None:
    for limit, dead in ((2500, False), (3000, True)):
        env = MinAtarVectorEnv("Freeway", 1, max_episode_steps=limit)
        env.reset(seed=0)
        _, _, terminated, truncated = play(env, np.zeros((2501, 1), int))
        assert terminated.any() == dead
        assert np.flatnonzero(terminated if dead else truncated).tolist() == [
            2500 if dead else 2499
        ]


def test_difficulty_ramps_only_where_asked() -> None:
    """Asterix speeds up after 100 steps; up to there the streams are one."""
    nothing = np.zeros((400, 64), int)
    streams = []
    for ramping in (True, False):
        env = MinAtarVectorEnv("Asterix", 64, sticky=0.0, difficulty_ramping=ramping)
        env.reset(seed=0)
        streams.append(play(env, nothing)[0])
    differ = (streams[0] != streams[1]).any(axis=(1, 2, 3, 4))
    assert differ.any() and not differ[:100].any()


@pytest.mark.parametrize("name", GAMES)
def test_minimal_actions_are_legal_alone_and_keep_their_numbers(name: str) -> None:
    native = sorted(minatar.Environment(GAMES[name]).minimal_action_set())
    minimal, full = (make((name,), (0,), minimal_actions=flag) for flag in (True, False))
    assert [np.flatnonzero(row).tolist() for row in minimal.legal_actions] == [native] * 2
    assert full.legal_actions.shape == (2, 6) and full.legal_actions.all()
    actions = np.array(native)[random_actions(150, 2, len(native))]
    np.testing.assert_array_equal(minimal.reset(3).observation, full.reset(3).observation)
    for row in actions:
        np.testing.assert_array_equal(minimal.step(row).observation, full.step(row).observation)


def test_pads_channels_and_masks_actions() -> None:
    names, channels, sizes = tuple(GAMES), (4, 4, 6, 7, 10), (3, 5, 4, 3, 6)
    for minimal in (False, True):
        env = make(names, range(5), minimal_actions=minimal)
        assert env.observation_shape == (10, 10, 10) and env.observation_dtype == np.uint8
        assert env.legal_actions.shape == (10, 6)
        assert (
            env.legal_actions.sum(axis=1).tolist()
            == np.repeat(sizes if minimal else (6,) * 5, 2).tolist()
        )
        alone = [MinAtarVectorEnv(name, 2, sticky=0.0) for name in names]
        useful = [
            np.array(game_shape(name).minimal_actions if minimal else range(6)) for name in names
        ]
        for port in env._ports:
            port.reseed_after = 10**6  # the environments alone are seeded once
        env.reset(seed=0)
        for task, native in enumerate(alone):
            native.reset(seed=task_seed(0, task))
        for draw in random_actions(80, 10, 3):
            row = np.concatenate(
                [legal[draw[rows]] for legal, rows in zip(useful, env.rows, strict=True)]
            )
            observation = env.step(row).observation
            for rows, native, used in zip(env.rows, alone, channels, strict=True):
                np.testing.assert_array_equal(
                    observation[rows, :used].transpose(0, 2, 3, 1), native.step(row[rows])[0]
                )
                assert not observation[rows, used:].any()


def test_a_rank_with_one_task_has_the_shapes_of_all() -> None:
    env = make(THREE, [0], minimal_actions=True)
    assert env.reset(0).observation.shape == (2, 6, 10, 10)
    assert env.legal_actions.tolist() == [[True, True, False, True, False, False]] * 2


def test_ranks_that_share_a_game_play_different_episodes() -> None:
    """A rank's environments are numbered on from those of the ranks before; training alone
    clips."""
    config = MinAtarEnvConfig(games=THREE, sticky_action_probability=0.3)
    whole, part = (
        MINATAR.make(
            config, THREE, (1,), (count,), env_offsets=(offset,), training=offset > 0, num_threads=1
        )
        for count, offset in ((3, 0), (1, 2))
    )
    whole.reset(seed=0), part.reset(seed=0)
    for row in random_actions(60, 3):
        np.testing.assert_array_equal(
            whole.step(row).observation[2:], part.step(row[2:]).observation
        )
    assert part._clip_reward.all() and not whole._clip_reward.any()


def test_the_config_reaches_the_games() -> None:
    env = make(
        ("Freeway", "Seaquest"),
        (0, 1),
        1,
        max_episode_steps=7,
        overrides={"Freeway": {"max_episode_steps": 3}},
    )
    env.reset(seed=0)
    truncated = np.array([env.step(np.array([0, 3])).truncated for _ in range(8)])
    assert np.flatnonzero(truncated[:, 0]).tolist() == [2, 6] and np.flatnonzero(
        truncated[:, 1]
    ).tolist() == [6]
    actions = random_actions(150, 4)
    streams = {}
    for sticky in (0.0, 0.5):
        env = make(("Breakout",), (0,), 4, sticky_action_probability=sticky)
        env.reset(seed=0)
        streams[sticky] = np.array([env.step(row).observation for row in actions])
    assert (streams[0.0] != streams[0.5]).any()
    [game] = make(("Asterix",), (0,), 1, difficulty_ramping=False)._tasks[0].env._games
    assert game.env.ramping is False


@pytest.mark.parametrize("name", GAMES)
def test_the_screen_shows_the_evaluated_episodes(name: str) -> None:
    """Objects where the first environment has them, over several episodes with sticky actions."""
    settings = {"sticky_action_probability": 0.3, "max_episode_steps": 40, "minimal_actions": True}
    env = make((name, "Seaquest") if name != "Seaquest" else (name,), (0,), **settings)
    config = MinAtarEnvConfig(games=(name,), **settings)
    screen = MINATAR.make_screen(config, name)
    observation = env.reset(4).observation
    picture = screen.reset(task_seed(4, 0))
    episodes, pictures = 0, set()
    useful = np.array(game_shape(name).minimal_actions)
    for row in useful[random_actions(130, 2, len(useful), seed=1)]:
        assert picture.shape == (160, 160, 3) and picture.dtype == np.uint8
        lit = picture.any(axis=2)
        np.testing.assert_array_equal(
            lit, observation[0].any(axis=0).repeat(16, axis=0).repeat(16, axis=1)
        )
        pictures.add(picture.tobytes())
        step = env.step(row)
        observation, picture = step.observation, screen.step(int(row[0]))
        assert (screen.raw_reward, screen.episode_over) == (
            step.raw_reward[0],
            step.episode_over[0],
        )
        episodes += screen.episode_over
    assert episodes >= 3 and len(pictures) > 10
    screen.close()


def test_channels_have_colours_of_their_own() -> None:
    screen = MinAtarScreen("Seaquest")
    alone = {
        tuple(screen._picture(255 * np.eye(10, dtype=np.uint8)[c][None, None])[0, 0])
        for c in range(10)
    }
    assert len(alone) == 10 and (0, 0, 0) not in alone
    first, second = (screen._colours[c] for c in (0, 5))
    both = np.zeros((1, 1, 10), np.uint8)
    both[..., [0, 5]] = 255
    np.testing.assert_allclose(screen._picture(both)[0, 0], (first + second) / 2, atol=0.5)


def test_wrong_names_and_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'space_invaders'.*'SpaceInvaders'"):
        MinAtarVectorEnv("space_invaders", 1)
    for field, value in (("num_envs", 0), ("max_episode_steps", 0), ("sticky", 1.5)):
        with pytest.raises(ValueError, match=f"{field}={value}"):
            MinAtarVectorEnv("Breakout", **{"num_envs": 1, field: value})
    with pytest.raises(ValidationError, match=r"unknown game 'Brekout'.*did you mean 'Breakout'"):
        with_domain_settings(
            {"env": {"domain": "zoo.minatar.domain:MINATAR", "games": ["Brekout"]}}
        )
