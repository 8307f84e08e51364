"""Turns of games as the report reads them, against the experiment that plays them."""

import json
from pathlib import Path

import pytest

from lzero.config_fields import flatten
from lzero.config_ppo import PPOExperiment
from lzero.report.run_data import Group, RunData, RunDataError
from lzero.report.turns import (
    Turn,
    clock_steps,
    common_turns,
    is_continual,
    played_turns,
    switches,
    turns,
)
from tests.report.ppo_runs import ROUND, experiment

CRL = {"setting": "crl", "cycles": 2}
EXPERIMENTS = {
    "together": experiment("x"),
    "in turns": experiment("x", schedule=CRL),
    "reversed": experiment("x", schedule=CRL | {"order": ("MirroredCatch", "Catch")}),
    "one game": experiment("x", ("Catch",), schedule=CRL),
    "rest": experiment("x", schedule=CRL | {"cycles": 3}, train={"max_env_steps": 10_000}),
    "once": experiment("x", schedule=CRL | {"cycles": 1}, train={"max_env_steps": 5_000}),
    "envs": experiment(
        "x",
        schedule=CRL | {"cycles": 3},
        env={"overrides": {game: {"num_envs": 20} for game in ("Catch", "MirroredCatch")}},
    ),
}


def fields_of(config: PPOExperiment) -> dict:
    return dict(flatten(json.loads(config.model_dump_json())))


@pytest.mark.parametrize("config", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_switches_are_those_of_the_experiment(config):
    fields = fields_of(config)
    games = [config.game_at(step) for step in range(config.clock_steps)]
    changed = [step for step in range(1, len(games)) if games[step] != games[step - 1]]
    assert switches(fields) == changed
    assert clock_steps(fields) == config.clock_steps
    assert is_continual(fields) == config.is_continual
    for turn in turns(fields):
        for step in (turn.start, turn.end - 1):
            assert config.env.games[config.game_at(step)] == turn.game


@pytest.mark.parametrize("config", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_played_turns_are_those_of_a_run(config):
    steps = config.env.fewest_envs() * config.train.collect_steps
    played, clock = [], 0
    while clock < config.clock_steps and config.is_continual:  # as PPORun chooses and counts
        game, nominal = config.game_at(clock), clock // config.turn_steps
        if not played or played[-1][0] != nominal:
            played.append([nominal, game, clock, clock])
        clock += steps
        played[-1][3] = clock
    expected = [Turn(config.env.games[game], start, end) for _, game, start, end in played]
    assert played_turns(fields_of(config)) == expected


def test_a_turn_ends_with_its_round():
    fields = fields_of(EXPERIMENTS["rest"])
    ends = [turn.end for turn in played_turns(fields)]
    assert [turn.end for turn in turns(fields)][-2:] == [19_998, 20_000]
    assert ends[-1] == 40 * ROUND and len(ends) == 6, "nothing is left of the last turn"


def test_seeds_with_other_turns_have_none_in_common():
    runs = []
    for steps in (4096, 8192):
        fields = fields_of(experiment("x", schedule=CRL, train={"max_env_steps": steps}))
        runs.append(RunData(Path(f"s{steps}"), fields, {}, {}))
    assert common_turns(Group("x", tuple(runs), {})) is None
    assert common_turns(Group("x", (runs[0],), {})) == played_turns(runs[0].fields)
    together = RunData(Path("t"), fields_of(EXPERIMENTS["together"]), {}, {})
    assert common_turns(Group("x", (together,), {})) == []


def test_a_config_that_lacks_a_field_is_named():
    fields = fields_of(EXPERIMENTS["in turns"])
    del fields["schedule.cycles"]
    with pytest.raises(RunDataError, match=r"schedule.setting=crl, but no schedule.cycles"):
        turns(fields)
    assert turns({"env.games": ["A"]}) == [], "configs of other algorithms have no schedule"
