import json

import pytest

from zoo.atari.domain import ATARI
from zoo.atari.scores import SCORES_FILE, has_reference, human_normalised, reference_table

DATA = json.loads(SCORES_FILE.read_text(encoding="utf-8"))


def test_random_player_has_0_and_human_1():
    for game, entry in DATA["games"].items():
        assert human_normalised(game, entry["random"]) == 0.0
        assert human_normalised(game, entry["human"]) == pytest.approx(1.0)
    assert human_normalised("Pong", 14.6 - 35.3 / 2) == pytest.approx(0.5)


def test_game_lists_are_complete_and_nested():
    assert len(DATA["atari26"]) == len(set(DATA["atari26"])) == 26
    assert set(DATA["atari26"]) == set(DATA["games"])
    assert len(DATA["atari8"]) == 8 and set(DATA["atari8"]) < set(DATA["atari26"])


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("Pacman", "MsPacman"), ("ALE/Pong-v5", "Pong"), ("seaquest", "Seaquest")],
)
def test_unknown_game_names_the_nearest(typed, nearest):
    with pytest.raises(ValueError, match=f"nearest name: '{nearest}'"):
        human_normalised(typed, 0.0)
    assert has_reference(nearest) and not has_reference(typed)


def test_published_lines_are_keyed_by_game_and_say_their_source():
    lines = reference_table()
    assert len({(line.setting, line.method) for line in lines}) == len(lines) == 7
    for line in lines:
        assert "arXiv" in line.source
        assert set(line.scores) <= set(DATA["games"])
        assert {"mean", "median"} <= set(line.aggregates)


def test_published_scores_follow_their_games_and_not_their_positions():
    [line] = [
        line
        for line in reference_table()
        if "atari8" in line.setting and line.method == "UniZero multi-task"
    ]
    assert set(line.scores) == set(DATA["atari8"])
    assert line.scores["Pong"] == 19 and line.scores["RoadRunner"] == 6300
    # the source note's recomputed aggregates, to its three digits
    assert line.aggregates["mean"] == pytest.approx(0.380, abs=5e-4)
    assert line.aggregates["median"] == pytest.approx(0.260, abs=5e-4)


def test_reference_scores_say_whose_they_are_and_after_how_many_steps():
    """Every game has its random player, a human and UniZero alone; 8 games more; an unknown one
    nothing."""
    assert ATARI.reference_scores("Pong") == {
        "random": -20.7,
        "human": 14.6,
        "UniZero multi-task (atari8 400k)": 19,
        "MuZero multi-task (atari8 400k)": -1,
        "UniZero single-task (atari8 400k)": 18,
        "UniZero single-task (atari26 100k)": -10,
    }
    for game in DATA["atari26"]:
        assert len(ATARI.reference_scores(game)) == (6 if game in DATA["atari8"] else 3)
    assert ATARI.reference_scores("Krull")["UniZero single-task (atari26 100k)"] == 4484
    assert ATARI.reference_scores("Tennis") == {}
    assert set(DATA["games"]["Pong"]) == {"random", "human"}, "the data are not written to"
