"""Any id of gymnasium's registry as a game: spaces, pictures, what is refused and what is said, and a run of two."""

import json
import logging
import re
import sys
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator
from pydantic import ValidationError

import lzero.entry.evaluation as evaluation
from lzero import tags
from lzero.config import EnvConfig
from lzero.entry.cli import main, parse
from lzero.entry.eval_unizero_multitask import eval_unizero_multitask, find_checkpoint
from lzero.entry.evaluation import video_name
from lzero.envs import MultiTaskVectorEnv
from lzero.envs.domain import SHORT_NAMES, check_trusted, load_domain, with_domain_settings
from lzero.envs.random_scores import (
    RANDOM_SCORES_FILE,
    RandomScore,
    read_random_scores,
    write_random_scores,
)
from lzero.logging import read_metrics
from lzero.report.study import build_study
from lzero.worker.random_policy import measure_random_policy
from tests.zoo.tiny_gym import LENGTH
from zoo.gym.config.presets import presets
from zoo.gym.domain import GYM, GymDomain, GymEnvConfig
from zoo.gym.games import look_at

TINY = "tests.zoo.tiny_gym"
WALK, TWIN = f"{TINY}:Tiny/Walk-v0", f"{TINY}:Tiny_Walk-v0"
BREAKOUT = "ALE/Breakout-v5"


def made(*games: str, envs: int = 2, training: bool = True, **settings: Any) -> MultiTaskVectorEnv:
    config = with_domain_settings({"env": {"domain": "gym", "games": games, **settings}})
    tasks = range(len(games))
    return GYM.make(
        config.env,
        games,
        tasks,
        [envs] * len(games),
        env_offsets=[0] * len(games),
        training=training,
        num_threads=1,
    )


def refusal(*games: str, **settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        with_domain_settings({"env": {"domain": "gym", "games": games, **settings}})
    [error] = caught.value.errors()
    said = str(error["ctx"]["error"])
    assert said.startswith("env.") and "\n" not in said
    return said


def test_short_names_are_the_built_in_domains_and_are_written_in_full():
    for name, path in SHORT_NAMES.items():
        assert load_domain(name) is load_domain(path)
    config = with_domain_settings({"env": {"domain": "gym"}})
    assert config.env.domain == "zoo.gym.domain:GYM" and type(config.env) is GymEnvConfig
    written = json.loads(config.model_dump_json())
    assert written["env"]["domain"] == "zoo.gym.domain:GYM"
    assert with_domain_settings(written) == config
    check_trusted("gym")
    with pytest.raises(
        ValueError, match="or as one of atari, minatar, catch, classic_control, gym"
    ):
        load_domain("gymnasium")


def test_spaces_are_read_from_environments_and_padded():
    """Actions that do not begin at 0, numbers in two axes, numbers of another precision."""
    env = made(WALK, f"{TINY}:Tiny/Table-v0")
    assert env.observation_shape == (6,) and env.observation_dtype == np.float32
    assert env.legal_actions.tolist() == [[True] * 3] * 2 + [[True, True, False]] * 2
    begun = env.reset(0).observation
    assert (begun[:2, 0] == 0).all() and not begun[:2, 2:].any() and begun[2:].all()
    step = env.step(np.array([0, 2, 0, 1]))
    assert step.raw_reward.tolist() == [0, 2, 0, 0] and step.observation[:2, 0].tolist() == [0, 1]
    env.close()
    alone = GYM.make(
        EnvConfig(domain="gym", games=(WALK, f"{TINY}:Tiny/Table-v0")),
        (WALK, f"{TINY}:Tiny/Table-v0"),
        (0,),
        (1,),
        env_offsets=(0,),
        training=True,
        num_threads=1,
    )
    assert alone.observation_shape == (6,), "a rank with one game has the shapes of all"
    alone.close()


def test_an_end_is_no_time_limit():
    """The goal terminates; the id's own limit truncates, which is bootstrapped; both begin another episode."""
    env = made(WALK, clip_reward=True)
    env.reset(0)
    steps = [env.step(np.array([2, 0])) for _ in range(8)]
    assert [step.terminated.tolist() for step in steps].index([True, False]) == LENGTH - 1
    assert [step.truncated.tolist() for step in steps].index([False, True]) == 5
    assert steps[LENGTH].reset.tolist() == [True, False] and steps[6].reset.tolist() == [
        False,
        True,
    ]
    assert steps[0].reward.tolist() == [1, 0] and steps[0].raw_reward.tolist() == [2, 0]
    env.close()


def test_small_grids_stay_as_they_are():
    env = made(f"{TINY}:Tiny/Cells-v0")
    assert env.observation_shape == (2, 10, 10) and env.observation_dtype == np.uint8
    cells = env.reset(0).observation[0]
    assert cells[1, 0, 3] == 255 and cells.sum() == 255
    env.close()


def test_pictures_are_made_alike():
    pytest.importorskip("cv2")
    games = (f"{TINY}:Tiny/Photo-v0", f"{TINY}:Tiny/Cells-v0")
    env = made(*games, image_size=16)
    assert env.observation_shape == (3, 16, 16) and env.observation_dtype == np.uint8
    photo = env.reset(0).observation[0]
    assert photo[:, 5, 2].tolist() == [200, 0, 0] and photo[:, 5, 13].tolist() == [0, 100, 0]
    env.close()
    env = made(games[0], image_size=16, grayscale=True, frame_stack=3)
    assert env.observation_shape == (3, 16, 16)
    stacked = env.reset(0).observation[0]
    assert (stacked[0] == stacked[2]).all() and stacked[0, 5, 2] == int(0.2126 * 200)
    env.close()


def test_atari_games_have_the_standard_preprocessing_once():
    """Four frames a step by whoever skips them, the id's own actions and sticky ones; a death is an end in training alone."""
    for game in (BREAKOUT, "BreakoutNoFrameskip-v4"):
        env = made(game, envs=1, image_size=32, grayscale=True, frame_stack=2)
        assert env.observation_shape == (2, 32, 32) and env.num_actions == 4
        [port] = env._ports
        frames = [port.reset(3)[1]["frame_number"]]
        for _ in range(3):
            frames.append(port.step(np.array([1]))[-1]["frame_number"])
        assert (np.diff(frames, axis=0) == 4).all()
        env.close()
    training, evaluating = made(BREAKOUT, envs=1), made(BREAKOUT, envs=1, training=False)
    died = []
    for env in (training, evaluating):
        env.reset(0)
        steps = [env.step(np.array([1])) for _ in range(60)]
        died.append([bool(step.terminated[0]) for step in steps])
        assert not any(step.episode_over[0] for step in steps)
        env.close()
    assert any(died[0]) and not any(died[1])


REFUSED = {
    "unknown": (("CartPol-v1",), "'CartPol-v1' is not registered.*did you mean 'CartPole-v1'"),
    "without version": (("Acrobot",), "did you mean 'Acrobot-v1'"),
    "of a package": (
        ("Nowhere/Nothing-v7",),
        "write module:id, e.g. 'my_package:Nowhere/Nothing-v7",
    ),
    "no module": (("not_there:Env-v0",), "the module of game.*No module named 'not_there'"),
    "not in the module": ((f"{TINY}:Tiny/Wlak-v0",), "did you mean 'Tiny/Walk-v0'"),
    "dict": ((f"{TINY}:Tiny/Parts-v0",), r"observes Dict\(.*FlattenObservation.wrapper_spec"),
    "discrete seen": (("FrozenLake-v1",), r"observes Discrete\(16\); allowed is a Box"),
    "levers": ((f"{TINY}:Tiny/Levers-v0",), r"takes actions MultiDiscrete.*allowed is Discrete"),
    "continuous": (("Pendulum-v1",), r"takes actions Box\(1,\) float32"),
    "broken": ((f"{TINY}:Tiny/Broken-v0",), "cannot be reset: OSError: no connection"),
    "bright": ((f"{TINY}:Tiny/Bright-v0",), "float32 pictures from 0 to 1000"),
    "mixed": ((WALK, BREAKOUT), "Walk-v0' observes a vector, 'ALE/Breakout-v5' a picture"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_refused_with_what_to_do(case):
    games, pattern = REFUSED[case]
    assert re.search(pattern, refusal(*games))


def test_missing_packages_are_named(monkeypatch):
    def without(entry_point: str):
        if entry_point.startswith("gymnasium.envs.box2d"):
            raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")
        return load_env_creator(entry_point)

    known = presets(moe=False)
    look_at.cache_clear()
    monkeypatch.setattr("gymnasium.envs.registration.load_env_creator", without)
    with pytest.raises(SystemExit) as ended:
        parse(known, "cpu", ["cpu", "--env.games", "LunarLander-v3"])
    look_at.cache_clear()
    said = str(ended.value)
    assert said.startswith("error: env.games: ") and "pip install gymnasium[box2d]" in said
    assert "\n" not in said


def test_vectors_are_not_stacked_and_pictures_need_opencv(monkeypatch):
    assert "env.frame_stack=2" in refusal("CartPole-v1", frame_stack=2)
    monkeypatch.setitem(sys.modules, "cv2", None)
    said = refusal(f"{TINY}:Tiny/Photo-v0")
    assert "32x48" in said and "pip install opencv-python-headless" in said


def test_the_scale_never_divides_by_nothing():
    """Solved where the registry says what that is and random play gets less; else the random score's own size."""
    cases = {
        "CartPole-v1": (RandomScore(25.0, 9.0, 20, 0), 475.0, 1.0),
        "Pong-v4": (RandomScore(-20.0, 1.0, 20, 0), 20.0, 2.0),
        "Freeway-v4": (RandomScore(0.0, 0.0, 20, 0), 7.0, 7.0),
        "Breakout-v4": (RandomScore(0.5, 2.0, 20, 0), 4.5, 2.0),
    }
    domain = GYM.with_random_scores({game: score for game, (score, _, _) in cases.items()})
    for game, (score, raw, normalised) in cases.items():
        assert domain.normalised_score(game, raw) == pytest.approx(normalised)
        assert domain.normalised_score(game, score.mean) == 0.0
        assert domain.reference_scores(game)["random"] == score.mean
    assert domain.reference_scores("CartPole-v1") == {"random": 25.0, "solved": 475.0}
    too_good = GymDomain({"CartPole-v1": RandomScore(475.0, 5.0, 20, 0)})
    assert too_good.normalised_score("CartPole-v1", 480.0) == pytest.approx(5 / 475)
    assert GYM.normalised_score("CartPole-v1", 1.0) is None


def test_a_random_policy_is_measured_by_seed_and_within_a_budget():
    env = made(WALK, envs=2, training=False)
    first = measure_random_policy(env, 3, episodes=5)
    assert first == measure_random_policy(env, 3, episodes=5) != measure_random_policy(env, 4)
    assert first[0].episodes == 6 and first[0].cut == 0
    assert 0 < first[0].mean < 12 and first[0].std > 0
    hurried = measure_random_policy(env, 3, episodes=40, max_env_steps=6)[0]
    assert (hurried.episodes, hurried.cut) == (2, 2), "running episodes count with what they have"
    env.close()


def test_ranks_tell_each_other_what_they_have_measured():
    """Of a game that two ranks know the first one's word counts; of one that none knows nothing is made up."""
    ours, theirs = RandomScore(1.5, 0.5, 20, 0), RandomScore(-3.0, 0.0, 6, 2)
    arrays: list[np.ndarray] = []
    for known in ({"a": ours}, {"a": theirs, "c": theirs}):
        rank = SimpleNamespace(
            config=SimpleNamespace(env=SimpleNamespace(games=("a", "b", "c"))),
            dist=SimpleNamespace(all_gather_array=lambda mine: (arrays.append(mine), arrays)[1]),
        )
        merged = evaluation.GameEvaluator._of_all_ranks(rank, known)
    assert merged == {"a": ours, "c": theirs}


def test_random_scores_are_read_as_they_were_kept(tmp_path, caplog):
    scores = {"ALE/Pong-v5": RandomScore(-20.5, 0.5, 20, 1)}
    assert read_random_scores(tmp_path) == {}
    write_random_scores(tmp_path, scores, {"ALE/Pong-v5": 9})
    assert (
        read_random_scores(tmp_path) == read_random_scores(tmp_path, {"ALE/Pong-v5": 9}) == scores
    )
    assert read_random_scores(tmp_path, {"ALE/Pong-v5": 10}) == {}, "another time limit"
    for text in ("{", "[]", "1", '{"a": 3}', '{"a": {"mean": "NaN", "std": 0, "episodes": 1}}'):
        (tmp_path / RANDOM_SCORES_FILE).write_text(text)
        with caplog.at_level(logging.WARNING):
            assert read_random_scores(tmp_path) == {}


def test_screens_play_the_same_episode():
    config = with_domain_settings(
        {"env": {"domain": "gym", "games": (WALK, f"{TINY}:Tiny/Table-v0")}}
    )
    screen = GYM.make_screen(config.env, WALK)
    assert screen.frames_per_second == 5
    assert (screen.reset(0) == 0).all() and (screen.step(2) == 10).all()
    assert screen.step(0).shape == (8, 6, 3)
    screen.close()
    assert GYM.make_screen(config.env, f"{TINY}:Tiny/Table-v0") is None
    atari = with_domain_settings({"env": {"domain": "gym", "games": (BREAKOUT,)}})
    screen = GYM.make_screen(atari.env, BREAKOUT)
    first = screen.reset(0)
    assert first.shape == screen.step(1).shape == (210, 160, 3) and first.dtype == np.uint8
    screen.close()


def test_a_screen_that_lacks_a_package_is_left_out(monkeypatch, caplog):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr("tests.zoo.tiny_gym.Walk.render", render)
    config = with_domain_settings({"env": {"domain": "gym", "games": (WALK,)}})
    assert GYM.make_screen(config.env, WALK) is None
    assert "no video of" in caplog.text and "pygame is not installed" in caplog.text


def test_games_of_a_strangers_run_import_nothing_unasked():
    with pytest.raises(ValueError, match="--allow-domain their.code"):
        check_trusted("gym", (), ("CartPole-v1", "their.code:Env-v0"))
    check_trusted("gym", ("their.code",), ("their.code:Env-v0", BREAKOUT))
    assert GymDomain().reference_scores("not.there:CartPole-v1") == {"solved": 475.0}


SMALL = """
--env.num-envs 2 --env.num-eval-envs 2 --policy.replay.capacity 400 --policy.batch-size 2 --policy.replay-ratio 0.05
--model.embed-dim 16 --model.num-heads 2 --model.num-layers 1 --model.encoder.hidden 16
--policy.search.num-simulations 2 --policy.search.num-eval-simulations 2
--train.eval-interval 90 --train.checkpoint-interval 90 --train.eval-episodes 2 --train.log-interval 1
""".split()


def test_two_ids_that_differ_in_a_slash_keep_everything_apart(tmp_path, monkeypatch):
    """Exceptions, tags, tables, videos, checkpoints, reports; and what a random policy gets is measured once."""
    monkeypatch.chdir(tmp_path)
    measured = []

    def measure(env, seed, **more):
        measured.append(seed)
        return measure_random_policy(env, seed, **more)

    monkeypatch.setattr(evaluation, "measure_random_policy", measure)

    def run(steps: int):
        argv = ["cpu", "--env.games", WALK, TWIN, *SMALL, "--output-dir", str(tmp_path)]
        argv += ["--train.max-env-steps", str(steps)]
        argv += ["--game-overrides", f"{WALK}.batch_size=3", f"{TWIN}.max-episode-steps=5"]
        return main(presets(moe=False), "cpu", argv)

    result = run(40)
    folder = result.run_dir
    assert set(result.scores) == {WALK, TWIN} and measured == [0]
    kept = (folder / RANDOM_SCORES_FILE).read_bytes()
    run(60)
    assert measured == [0] and (folder / RANDOM_SCORES_FILE).read_bytes() == kept
    config = json.loads((folder / "config.json").read_text())
    assert config["env"]["domain"] == "zoo.gym.domain:GYM"
    assert config["env"]["overrides"][WALK]["batch_size"] == 3
    assert config["env"]["overrides"][TWIN]["max_episode_steps"] == 5

    logged = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        logged |= row["metrics"]
    for game in (WALK, TWIN):
        for metric in (tags.EVAL_RETURN, tags.EVAL_NORMALISED, tags.COLLECT_RETURN):
            tag = tags.of_game(metric, game)
            assert np.isfinite(logged[tag]) and tags.game_of(tag, (TWIN, WALK)) == game
    random = read_random_scores(folder)
    expected = logged[f"eval_return/{WALK}"] - random[WALK].mean
    assert logged[f"eval_normalised/{WALK}"] == pytest.approx(expected / (8.0 - random[WALK].mean))
    names = {video_name(game, (WALK, TWIN)) for game in (WALK, TWIN)}
    assert {path.name for path in (folder / "videos").glob("*.mp4")} == names and len(names) == 2

    study = build_study([folder])
    known = study.references["zoo.gym.domain:GYM", WALK]
    assert known == {"random": random[WALK].mean, "solved": 8.0}
    assert study.scales["zoo.gym.domain:GYM"].random == {WALK: 0.0, TWIN: 0.0}
    assert {final.game for final in study.finals} == {WALK, TWIN}

    assert find_checkpoint(folder).name.startswith("step_")
    with pytest.raises(ValueError, match=f"--allow-domain {TINY}"):
        eval_unizero_multitask(folder, episodes=1, video=False)
    table = eval_unizero_multitask(folder, episodes=1, video=False, allow_domains=(TINY,))
    assert set(table.normalised) == {WALK, TWIN} and measured == [0]
