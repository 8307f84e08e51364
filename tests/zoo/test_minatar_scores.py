"""Random policy on MinAtar: what is shipped fits the presets, and can be measured again."""

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tyro
from rich.console import Console

from lzero.worker.evaluator import Evaluation
from zoo.minatar import scores
from zoo.minatar.config.presets import presets
from zoo.minatar.domain import MINATAR
from zoo.minatar.scores import (
    Command,
    PlaySettings,
    RandomPlay,
    main,
    measure,
    random_play,
    store,
    times_random,
)

MINIMAL = PlaySettings(minimal_actions=True)


def test_the_presets_play_as_was_measured():
    for _, config in (*presets(moe=True).values(), *presets(moe=False).values()):
        assert {field: getattr(config.env, field) for field in asdict(PlaySettings())} == asdict(
            PlaySettings()
        )


@pytest.mark.parametrize("game", MINATAR.games)
def test_every_game_is_measured_with_both_action_sets(game):
    full, minimal = random_play(game), random_play(game, MINIMAL)
    for play in (full, minimal):
        assert play.low < play.mean < play.high and play.episodes >= 1000
    assert MINATAR.reference_scores(game) == {"random": full.mean}
    assert (full == minimal) == (game == "Seaquest"), "Seaquest uses all actions, the others do not"


def test_scores_are_multiples_of_random_where_random_scores():
    for game in ("Breakout", "Asterix", "SpaceInvaders"):
        mean = random_play(game).mean
        assert (
            times_random(game, 5 * mean)
            == MINATAR.normalised_score(game, 5 * mean)
            == pytest.approx(5)
        )
    for game in ("Freeway", "Seaquest"):
        assert random_play(game).mean < 0.25 and MINATAR.normalised_score(game, 10.0) is None


@pytest.mark.parametrize("settings", [PlaySettings(), MINIMAL], ids=["full", "minimal"])
def test_measuring_again_agrees(settings):
    """Of a few hundred episodes, within four standard errors; the same seed repeats the numbers."""
    shipped, again = random_play("Breakout", settings), measure("Breakout", settings, 300, seed=1)
    standard_error = (again.high - again.low) / (2 * 1.96)
    assert abs(again.mean - shipped.mean) < 4 * standard_error < 0.25
    assert (
        again
        == measure("Breakout", settings, 300, seed=1)
        != measure("Breakout", settings, 300, seed=2)
    )


def test_the_interval_is_that_of_the_mean(monkeypatch):
    """Of 400 episodes, half with 1 point: the standard error is 0.025."""
    played = Evaluation(np.arange(400.0)[None] % 2, np.full((1, 400), 7), {})
    monkeypatch.setattr(scores, "_play", lambda *_: played)
    play = measure("Breakout", PlaySettings(), 400, seed=0)
    assert (play.mean, play.mean_length, play.episodes) == (0.5, 7, 400)
    assert (play.low, play.high) == pytest.approx(
        (0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.005
    )


def test_settings_reach_the_games():
    short = measure("Freeway", PlaySettings(max_episode_steps=9), 20, seed=0)
    assert short.mean_length == 9 and short.mean == short.low == short.high == 0
    # stuck on "nothing", it makes no difference what is drawn from
    stuck = [
        measure("Breakout", PlaySettings(1.0, minimal_actions=minimal), 20, seed=0)
        for minimal in (False, True)
    ]
    assert stuck[0].mean == stuck[1].mean and stuck[0].mean_length == stuck[1].mean_length
    loose = [
        measure("Breakout", PlaySettings(0.1, minimal_actions=minimal), 20, seed=0)
        for minimal in (False, True)
    ]
    assert loose[0].mean_length != loose[1].mean_length


def test_what_was_not_measured_says_how_to():
    with pytest.raises(
        ValueError, match=r"'Asterix'.*0\.7.*python -m zoo\.minatar\.scores --games Asterix --write"
    ):
        random_play("Asterix", PlaySettings(sticky_action_probability=0.7))
    with pytest.raises(ValueError, match="episodes=0"):
        measure("Breakout", PlaySettings(), 0, seed=0)


def test_storing_replaces_what_has_the_same_settings(tmp_path):
    path = tmp_path / "scores.json"
    shutil.copy(scores.SCORES_FILE, path)
    before = json.loads(path.read_text())
    new, other = RandomPlay(1.0, 0.5, 1.5, 10, 20.0, 3), PlaySettings(max_episode_steps=77)
    store(path, MINIMAL, {"Asterix": new})
    store(path, other, {"Freeway": new, "Breakout": new})
    after = json.loads(path.read_text())
    [changed] = [entry for entry in after["random"] if entry["settings"] == asdict(MINIMAL)]
    [added] = [entry for entry in after["random"] if entry["settings"] == asdict(other)]
    assert changed["games"].pop("Asterix") == asdict(new)
    assert list(added["games"]) == ["Breakout", "Freeway"]
    [kept] = [entry for entry in before["random"] if entry["settings"] == asdict(MINIMAL)]
    assert {**kept["games"], "Asterix": None} == {**changed["games"], "Asterix": None}
    assert (
        after["random"][0] == before["random"][0]
        and len(after["random"]) == len(before["random"]) + 1
    )


def test_the_command_prints_a_table_and_writes_only_if_asked(tmp_path, monkeypatch):
    path = Path(shutil.copy(scores.SCORES_FILE, tmp_path))
    monkeypatch.setattr(scores, "SCORES_FILE", path)
    before, shown = path.read_bytes(), io.StringIO()
    arguments = ["--games", "Breakout", "Seaquest", "--episodes", "12"]
    arguments += ["--minimal-actions", "--max-episode-steps", "50"]
    for write in (False, True):
        command = tyro.cli(Command, args=[*arguments, *(["--write"] * write)])
        main(command, Console(file=shown, width=100))
        assert (path.read_bytes() != before) == write
    [added] = [
        e
        for e in json.loads(path.read_text())["random"]
        if e["settings"]["max_episode_steps"] == 50
    ]
    assert list(added["games"]) == ["Breakout", "Seaquest"] and added["settings"]["minimal_actions"]
    text = shown.getvalue()
    assert all(
        word in text for word in ("Breakout", "Seaquest", "95 % interval", "minimal_actions True")
    )
    assert f"{added['games']['Breakout']['mean']:.3f}" in text


def test_games_of_all_lengths_count_alike(monkeypatch):
    """More episodes than environments: each plays its share, so that short episodes are not counted
    more often."""
    monkeypatch.setattr(scores, "NUM_ENVS", 4)
    few_envs = measure("Breakout", PlaySettings(), 400, seed=5)
    monkeypatch.setattr(scores, "NUM_ENVS", 400)
    one_each = measure("Breakout", PlaySettings(), 400, seed=6)
    spread = np.hypot(few_envs.high - few_envs.low, one_each.high - one_each.low) / (2 * 1.96)
    assert abs(few_envs.mean - one_each.mean) < 4 * spread
    assert few_envs.mean_length == pytest.approx(one_each.mean_length, rel=0.15)
