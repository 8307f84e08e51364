"""Catch against its rules, written down one environment at a time."""

import numpy as np
import pytest

from lzero.config import EnvConfig
from lzero.envs import task_seed
from lzero.envs.multitask import MultiTaskVectorEnv
from zoo.catch.domain import CATCH, RANDOM_RETURN
from zoo.catch.envs import COLUMNS, ROWS, CatchScreen, CatchVectorEnv

GAMES = CATCH.games


def columns(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of the ball, column of the paddle."""
    assert (observation.reshape(len(observation), -1, 2).astype(int).sum(axis=1) == 255).all()
    ball = observation[..., 0].reshape(len(observation), -1).argmax(axis=1)
    return ball // COLUMNS, ball % COLUMNS, observation[:, ROWS - 1, :, 1].argmax(axis=1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_balls_fall_and_paddles_move(mirrored):
    env, rng = CatchVectorEnv(6, mirrored=mirrored), np.random.default_rng(0)
    observation, _ = env.reset(seed=3)
    over = np.zeros(6, bool)
    ended = []
    for _ in range(100):
        row, ball, paddle = columns(observation)
        action = rng.integers(3, size=6)
        observation, reward, terminated, truncated, _ = env.step(action)
        new_row, new_ball, new_paddle = columns(observation)
        move = (1 - action) if mirrored else (action - 1)
        for n in range(6):
            if over[n]:  # gymnasium's NEXT_STEP: this step only began the next episode
                assert (new_row[n], reward[n], terminated[n]) == (0, 0, False)
                continue
            assert (new_row[n], new_ball[n]) == (row[n] + 1, ball[n])
            assert new_paddle[n] == min(max(paddle[n] + move[n], 0), COLUMNS - 1)
            assert terminated[n] == (new_row[n] == ROWS - 1)
            assert reward[n] == (
                0 if not terminated[n] else 1 if new_paddle[n] == new_ball[n] else -1
            )
            if terminated[n]:
                ended.append(reward[n])
        assert not truncated.any()
        over = terminated
    assert {-1, 1} == set(ended)


def test_both_games_show_the_same_pictures_and_mirrored_actions_undo_the_difference():
    plain, mirrored = CatchVectorEnv(5), CatchVectorEnv(5, mirrored=True)
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(plain.reset(seed=7)[0], mirrored.reset(seed=7)[0])
    for _ in range(40):
        action = rng.integers(3, size=5)
        for one, other in zip(plain.step(action)[:4], mirrored.step(2 - action)[:4], strict=True):
            np.testing.assert_array_equal(one, other)


def test_catch_again_is_catch_with_other_balls():
    """The same rules for the same seed; as tasks of one run they have seeds of their own."""
    config = EnvConfig(
        domain="zoo.catch.domain:CATCH", games=GAMES, clip_reward=False, end_on_life_loss=False
    )

    def made(*games: str) -> MultiTaskVectorEnv:
        tasks, envs = tuple(range(len(games))), (6,) * len(games)
        offsets = (0,) * len(games)
        return CATCH.make(
            config, games, tasks, envs, env_offsets=offsets, training=True, num_threads=1
        )

    rng = np.random.default_rng(4)
    once, again, both = made("Catch"), made("CatchAgain"), made("Catch", "CatchAgain")
    first, other, pair = once.reset(5), again.reset(5), both.reset(5)
    np.testing.assert_array_equal(first.observation, other.observation)
    assert (pair.observation[:6] != pair.observation[6:]).any()
    rewards = []
    for _ in range(3 * ROWS):
        action = rng.integers(3, size=6)
        one, two, pair = once.step(action), again.step(action), both.step(np.tile(action, 2))
        np.testing.assert_array_equal(one.observation, two.observation)
        np.testing.assert_array_equal(one.reward, two.reward)
        np.testing.assert_array_equal(one.observation, pair.observation[:6])
        rewards.append(pair.reward.reshape(2, 6))
    assert (np.array(rewards)[:, 0] != np.array(rewards)[:, 1]).any()
    assert CATCH.reference_scores("CatchAgain") == CATCH.reference_scores("Catch")


def test_an_environment_depends_on_its_own_seed_alone():
    together, apart = CatchVectorEnv(4), CatchVectorEnv(2)
    np.testing.assert_array_equal(together.reset(seed=10)[0][2:], apart.reset(seed=12)[0])
    for step in range(50):
        action = np.full(4, step % 3)
        np.testing.assert_array_equal(together.step(action)[0][2:], apart.step(action[2:])[0])


def test_balls_and_paddles_start_everywhere_equally_often():
    env = CatchVectorEnv(50)
    observation, _ = env.reset(seed=0)
    starts = []
    for _ in range(40 * ROWS):
        row, ball, paddle = columns(observation)
        starts += (ball * COLUMNS + paddle)[row == 0].tolist()
        observation = env.step(np.ones(50, np.int64))[0]
    share = np.bincount(starts, minlength=COLUMNS**2) / len(starts)
    assert len(starts) == 2000
    assert abs(share - 1 / COLUMNS**2).max() < 4 * np.sqrt(0.04 * 0.96 / 2000)


def test_reference_scores_are_what_such_players_get():
    env, rng = CatchVectorEnv(200), np.random.default_rng(2)
    returns = {"random": [], "optimum": []}
    for name, collected in returns.items():
        observation, _ = env.reset(seed=4)
        for _ in range(20 * ROWS):
            _, ball, paddle = columns(observation)
            action = rng.integers(3, size=200) if name == "random" else np.sign(ball - paddle) + 1
            observation, reward, terminated, _, _ = env.step(action)
            collected += reward[terminated].tolist()
    assert np.mean(returns["optimum"]) == CATCH.reference_scores("Catch")["optimum"] == 1.0
    error = 4 * np.std(returns["random"]) / np.sqrt(len(returns["random"]))
    assert np.mean(returns["random"]) == pytest.approx(RANDOM_RETURN, abs=error)


def test_the_domain_makes_both_tasks_and_films_what_they_show():
    config = EnvConfig(
        domain="zoo.catch.domain:CATCH", games=GAMES, clip_reward=False, end_on_life_loss=False
    )
    env = CATCH.make(
        config, GAMES, (0, 1), (2, 2), env_offsets=(0, 0), training=False, num_threads=1
    )
    assert env.observation_shape == (2, ROWS, COLUMNS)
    first = env.reset(0).observation
    assert env.step(np.array([0, 1, 0, 1])).observation.shape == (4, 2, ROWS, COLUMNS)
    screen = CATCH.make_screen(config, "MirroredCatch")
    picture = screen.reset(task_seed(0, 1))
    side = CatchScreen.SCALE
    assert picture.shape == (ROWS * side, COLUMNS * side, 3) and picture.dtype == np.uint8
    shown = first[2].astype(bool).any(axis=0)
    np.testing.assert_array_equal(picture[::side, ::side].any(axis=-1), shown)
    assert not screen.step(0)[::side, ::side].any(axis=-1)[0].any(), (
        "the ball has left the first row"
    )
