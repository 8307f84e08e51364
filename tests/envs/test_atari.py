"""Atari semantics: frame skip, no-ops, determinism, lives, rewards, time limits, and the twin for
videos."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from lzero.envs import EnvStep, MultiTaskVectorEnv, TaskEnv, task_seed
from zoo.atari.envs import (
    ATARI8,
    ATARI26,
    NativeScreenTwin,
    all_games,
    make_atari_multitask_env,
    make_atari_vector_env,
    minimal_actions,
    rom_name,
)


def random_actions(steps: int, envs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 18, (steps, envs))


def play(env: MultiTaskVectorEnv, actions: np.ndarray, seed: int = 0) -> Iterator[EnvStep]:
    yield env.reset(seed)
    for row in actions:
        yield env.step(row)


def columns(steps: list[EnvStep], field: str) -> np.ndarray:
    """``(time, N, ...)``"""
    return np.array([getattr(step, field) for step in steps])


@pytest.fixture(scope="module")
def road_runner() -> tuple[list[EnvStep], list[EnvStep]]:
    """The same play seen by a training and by an evaluation env: many deaths, games over and
    rewards."""
    actions = random_actions(300, 2)
    return tuple(
        list(
            play(
                make_atari_multitask_env(["RoadRunner"], [0], 2, training=training, num_threads=2),
                actions,
            )
        )
        for training in (True, False)
    )


def test_all_26_games_make_and_step() -> None:
    env = make_atari_multitask_env(
        ATARI26, range(26), 1, training=True, num_threads=2, max_episode_steps=3
    )
    assert env.observation_shape == (3, 64, 64) and env.observation_dtype == np.uint8
    assert env.legal_actions.shape == (26, 18) and env.legal_actions.all()
    steps = list(play(env, random_actions(5, 26)))
    shown = columns(steps, "observation")
    assert shown.shape == (6, 26, 3, 64, 64)
    assert (shown.reshape(6, 26, -1).max(axis=2) > 0).all()
    assert columns(steps, "truncated")[3].all() and columns(steps, "reset")[4].all()
    env.close()


def test_game_names() -> None:
    assert len(set(ATARI26)) == 26 and len(ATARI8) == 8 and set(ATARI8) < set(ATARI26)
    expected = {
        "MsPacman": "ms_pacman",
        "UpNDown": "up_n_down",
        "Qbert": "qbert",
        "Jamesbond": "jamesbond",
    }
    assert {game: rom_name(game) for game in expected} == expected
    assert len({rom_name(game) for game in ATARI26}) == 26
    assert set(ATARI26) < set(all_games())


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("pong", "Pong"), ("MsPackman", "MsPacman"), ("up_n_down", "UpNDown")]
)
def test_unknown_game_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"'{wrong}'.*'{nearest}'"):
        make_atari_vector_env(wrong, 1)


@pytest.mark.parametrize(
    "field", ["num_envs", "max_episode_steps", "num_threads", "frame_skip", "noop_max", "sticky"]
)
def test_refuses_numbers_out_of_range(field: str) -> None:
    options = {"num_envs": 1, field: -1}
    with pytest.raises(ValueError, match=f"{field}=-1"):
        make_atari_vector_env("Pong", **options)


def test_refuses_per_game_values_of_wrong_length() -> None:
    with pytest.raises(ValueError, match="clip_reward: 1 values for 2 games"):
        make_atari_multitask_env(["Pong", "Boxing"], [0, 1], 1, training=True, clip_reward=[True])


@pytest.mark.parametrize("frame_skip", [4, 3])
def test_exactly_one_component_skips_frames(frame_skip: int) -> None:
    env = make_atari_vector_env("MsPacman", 2, frame_skip=frame_skip, max_episode_steps=20)
    _, info = env.reset(seed=0)
    before = info["episode_frame_number"].copy()
    for _ in range(10):
        _, _, _, _, info = env.step(np.zeros(2, np.int64))
        assert (info["episode_frame_number"] - before == frame_skip).all()
        before = info["episode_frame_number"].copy()


@pytest.mark.parametrize(("noop_max", "allowed"), [(5, set(range(6))), (0, {0})])
def test_no_ops_are_random_bounded_and_seeded(noop_max: int, allowed: set[int]) -> None:
    """ALE counts no frame for its own start-up: the frame number of a reset row is the number of
    no-ops."""

    def counts() -> np.ndarray:
        env = make_atari_vector_env("Pong", 1, noop_max=noop_max, max_episode_steps=1)
        infos = [env.reset(seed=3)[1]] + [env.step(np.zeros(1, np.int64))[4] for _ in range(80)]
        return np.array([info["episode_frame_number"] for info in infos[::2]])

    drawn = counts()
    assert set(drawn.ravel().tolist()) == allowed
    assert (drawn == counts()).all()


def test_actions_are_not_sticky() -> None:
    """Two environments with one seed and the same actions stay together; sticky ones would drift
    apart."""

    def same(sticky: float, seeds: list[int]) -> bool:
        env = make_atari_vector_env("Breakout", 2, noop_max=0, sticky=sticky)
        env.reset(seed=np.array(seeds))
        pictures = [env.step(np.repeat(action, 2))[0] for action in random_actions(40, 1)]
        return all((picture[0] == picture[1]).all() for picture in pictures)

    assert same(0.0, [7, 7])
    assert same(0.0, [7, 8]), "without no-ops and stickiness the seed has nothing to decide"
    assert not same(0.25, [7, 8])


def test_same_seed_and_actions_give_the_same_stream(road_runner: tuple[list[EnvStep], ...]) -> None:
    """Through games over, whatever the number of threads, and again after a reset in the middle."""
    actions = random_actions(60, 2)
    env = make_atari_multitask_env(["RoadRunner"], [0], 2, training=True, num_threads=1)
    for _ in range(2):
        for step, expected in zip(play(env, actions), road_runner[0], strict=False):
            np.testing.assert_array_equal(step.observation, expected.observation)
            np.testing.assert_array_equal(step.raw_reward, expected.raw_reward)


def test_environments_of_one_task_differ(road_runner: tuple[list[EnvStep], ...]) -> None:
    shown = columns(road_runner[0], "observation")
    assert (shown[:, 0] != shown[:, 1]).any()


def test_lost_life_ends_the_episode_for_learning_only(
    road_runner: tuple[list[EnvStep], ...],
) -> None:
    training, evaluation = road_runner
    for field in ("observation", "raw_reward", "episode_over", "reset", "truncated"):
        np.testing.assert_array_equal(columns(training, field), columns(evaluation, field))
    over, terminated = columns(evaluation, "episode_over"), columns(evaluation, "terminated")
    assert over.any() and (over == terminated).all()
    learned = columns(training, "terminated")
    assert learned[over].all()
    lost_lives = learned & ~over
    # Three lives per game: two losses go on, the third is the end of the game.
    assert (
        lost_lives.cumsum(axis=0)[over] % 2 == 0
    ).all() and lost_lives.sum() >= 2 * over.sum() > 0
    assert (columns(training, "reset")[1:] == over[:-1]).all()


def test_actions_without_effect_can_be_masked() -> None:
    """ALE's own count tells how many actions have an effect; the others do what one of them
    does."""
    games = ("Pong", "MsPacman", "Boxing")
    assert [len(minimal_actions(game)) for game in games] == [
        AtariVectorEnv(rom_name(game), 1, full_action_space=False).single_action_space.n
        for game in games
    ]
    env = make_atari_multitask_env(games, range(3), 1, training=True, only_minimal_actions=True)
    assert [np.flatnonzero(legal).tolist() for legal in env.legal_actions] == [
        list(minimal_actions(game)) for game in games
    ]
    actions = np.random.default_rng(0).choice([0, 1, 3, 4, 11, 12], 100)
    everything, masked = (
        list(
            play(
                make_atari_multitask_env(
                    ["Pong"], [0], 1, training=True, only_minimal_actions=only
                ),
                actions[:, None],
            )
        )
        for only in (False, True)
    )
    for field in ("observation", "reward"):
        np.testing.assert_array_equal(columns(masked, field), columns(everything, field))
    with pytest.raises(
        ValueError,
        match=r"actions\[0\]=2 is not a legal action of task 'Pong'; "
        r"allowed are 0, 1, 3, 4, 11, 12",
    ):
        env.reset(0)
        env.step(np.array([2, 0, 0]))
    env.close()


def test_reset_rows_ignore_the_action(road_runner: tuple[list[EnvStep], ...]) -> None:
    steps = road_runner[0]
    first, env = next(
        (time, e) for time, step in enumerate(steps) for e in range(2) if time and step.reset[e]
    )
    assert steps[first].raw_reward[env] == 0 and not steps[first].terminated[env]
    actions = random_actions(300, 2)[:first]
    actions[-1, env] = (actions[-1, env] + 1) % 18
    *_, last = play(make_atari_multitask_env(["RoadRunner"], [0], 2, training=True), actions)
    np.testing.assert_array_equal(last.observation[env], steps[first].observation[env])


def test_training_clips_the_reward(road_runner: tuple[list[EnvStep], ...]) -> None:
    training, evaluation = road_runner
    raw = columns(training, "raw_reward")
    assert raw.max() > 1
    np.testing.assert_array_equal(columns(training, "reward"), np.sign(raw))
    np.testing.assert_array_equal(columns(evaluation, "reward"), raw)


def test_clipping_and_lives_can_be_chosen_per_game() -> None:
    games = ["Asterix", "Pong", "Asterix"]
    options = {"clip_reward": [False, True, True], "end_on_life_loss": [True, True, False]}
    env = make_atari_multitask_env(
        games, [0, 1, 2], [1, 1, 1], training=True, num_threads=2, **options
    )
    steps = list(play(env, random_actions(150, 3)))
    raw, reward = columns(steps, "raw_reward"), columns(steps, "reward")
    assert (
        (reward[:, 0] == raw[:, 0]).all()
        and (reward[:, 2] == np.sign(raw[:, 2])).all()
        and raw.max() > 1
    )
    early = columns(steps, "terminated") & ~columns(steps, "episode_over")
    assert early[:, 0].any() and not early[:, 2].any()


def test_time_limit_truncates() -> None:
    limits = [7, 4]
    env = make_atari_multitask_env(
        ["Pong", "Boxing"], [0, 1], 2, training=True, num_threads=2, max_episode_steps=limits
    )
    steps = list(play(env, random_actions(20, 4)))
    assert not columns(steps, "terminated").any()
    for rows, limit in zip(env.rows, limits, strict=True):
        # reset row, `limit` steps, reset row, ...
        expected = [time % (limit + 1) == limit for time in range(len(steps))]
        for field in ("truncated", "episode_over"):
            assert (columns(steps, field)[:, rows].T == expected).all()
        assert (columns(steps, "reset")[1:, rows].T == expected[:-1]).all()


def test_screen_is_the_maximum_of_two_frames() -> None:
    """One step of 4 frames shows the maximum of frames 3 and 4 (at native size, where nothing is
    resized)."""

    def screens(frame_skip: int, steps: int) -> list[np.ndarray]:
        env = make_atari_vector_env(
            "Breakout",
            1,
            noop_max=0,
            image_size=(210, 160),
            frame_skip=frame_skip,
            max_episode_steps=99,
        )
        env.reset(seed=0)
        return [env.step(np.array([1]))[0][0, 0] for _ in range(steps)]

    frames, skipped = screens(1, 40), screens(4, 10)
    for step, screen in enumerate(skipped):
        third, fourth = frames[4 * step + 2], frames[4 * step + 3]
        np.testing.assert_array_equal(screen, np.maximum(third, fourth))
    assert any((a != b).any() for a, b in zip(frames[2::4], frames[3::4], strict=True))


def test_gray_pictures_and_stacked_frames_are_of_the_same_play() -> None:
    actions = random_actions(30, 1)

    def observations(**how: int) -> np.ndarray:
        env = make_atari_multitask_env(["Breakout"], [0], 1, training=False, noop_max=0, **how)
        steps = list(play(env, actions))
        env.close()
        return columns(steps, "observation")

    colour, gray = observations(image_size=84), observations(image_size=84, grayscale=True)
    assert colour.shape == (31, 1, 3, 84, 84) and gray.shape == (31, 1, 1, 84, 84)
    # ALE mixes gray of its own palette, before pictures shrink; it stays between the channels' extremes
    luminance = np.tensordot(colour.astype(float), (0.30, 0.59, 0.11), axes=(2, 0))[:, :, None]
    assert np.abs(luminance - gray).mean() < 3
    stacked = observations(image_size=84, grayscale=True, frame_stack=4)
    assert stacked.shape == (31, 1, 4, 84, 84)
    for back in range(4):  # the newest frame is the last channel
        np.testing.assert_array_equal(stacked[back:, :, 3 - back], gray[: 31 - back, :, 0])


def test_mode_is_read_from_the_env_itself() -> None:
    """ale_py writes the latest mode into a dictionary that all vector envs share; that must not
    mislead."""
    right = make_atari_vector_env("Pong", 1)
    wrong = AtariVectorEnv("pong", 1, grayscale=False, autoreset_mode=AutoresetMode.SAME_STEP)
    MultiTaskVectorEnv([TaskEnv(right, 0, "right", "frames_hwc")])
    with pytest.raises(ValueError, match=r"'wrong'.*SAME_STEP"):
        MultiTaskVectorEnv([TaskEnv(wrong, 0, "wrong", "frames_hwc")])


def test_native_screen_twin_plays_the_same_episode() -> None:
    limit, actions = 60, random_actions(130, 3)
    env = make_atari_multitask_env(
        ["Pong", "Asterix"], [4, 9], [1, 2], training=False, num_threads=2, max_episode_steps=limit
    )
    twins = [NativeScreenTwin("Asterix", max_episode_steps=limit) for _ in range(2)]
    for j, twin in enumerate(twins):
        screen = twin.reset(task_seed(5, 9) + j)
        assert (
            screen.shape == (210, 160, 3)
            and screen.dtype == np.uint8
            and twin.frames_per_second == 15
        )
    steps = list(play(env, actions, seed=5))[1:]
    assert (
        columns(steps, "episode_over").any(axis=0).all()
        and columns(steps, "raw_reward")[:, 1:].any()
    )
    for row, step in zip(actions, steps, strict=True):
        for j, twin in enumerate(twins, start=1):
            screen = twin.step(row[j])
            assert (
                twin.raw_reward == step.raw_reward[j] and twin.episode_over == step.episode_over[j]
            )
            # The same picture at another size: its mean colour agrees.
            small = step.observation[j].reshape(3, -1).mean(axis=1)
            np.testing.assert_allclose(screen.reshape(-1, 3).mean(axis=0), small, atol=0.5)
    with pytest.raises(ValueError, match="action=18"):
        twins[0].step(18)
