"""Turns of games in continual runs, from their configs as they lie on disk.

The rules are those of :class:`lzero.config_ppo.PPOExperiment`, which a config of another version
need not fit. Env steps are those of the run's clock, on which the steps of all games add up.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lzero.report.run_data import Group, RunDataError

SETTING = "schedule.setting"
CONTINUAL = "crl"
NEEDED = ("schedule.cycles", "train.max_env_steps", "env.games")


@dataclass(frozen=True)
class Turn:
    """A stretch of training on one game."""

    game: str
    start: int  # no longer in it
    end: int  # in it


def is_continual(fields: Mapping[str, Any]) -> bool:
    """Whether games come one after another, by a flat config."""
    return fields.get(SETTING) == CONTINUAL


def clock_steps(fields: Mapping[str, Any]) -> int:
    """Env steps on the clock of a whole run."""
    steps = fields["train.max_env_steps"]
    return steps * len(fields["env.games"]) if is_continual(fields) else steps


def turns(fields: Mapping[str, Any]) -> list[Turn]:
    """Turns of a whole run in their order, by its flat config; none if it is not continual.

    Raises:
        RunDataError: if a field is missing that says when games change.
    """
    if not is_continual(fields):
        return []
    lacking = ", ".join(name for name in NEEDED if name not in fields)
    if lacking:
        raise RunDataError(f"config has {SETTING}={CONTINUAL}, but no {lacking}")
    order = fields.get("schedule.order") or fields["env.games"]
    end = clock_steps(fields)
    length = fields["train.max_env_steps"] // fields["schedule.cycles"]
    found = []
    for number, start in enumerate(range(0, end, length)):
        found.append(Turn(order[number % len(order)], start, min(start + length, end)))
    return found


def switches(fields: Mapping[str, Any]) -> list[int]:
    """Env steps at which another game begins; none if the run is not continual."""
    if len(fields["env.games"]) == 1:
        return []
    return [turn.start for turn in turns(fields)[1:]]


def played_until(fields: Mapping[str, Any], turn: Turn) -> int:
    """Env steps at which a turn really ends: a round that began in it is played to its end."""
    game = turn.game
    envs = fields.get(f"env.overrides.{game}.num_envs") or fields.get("env.num_envs")
    steps = fields.get("train.collect_steps")
    if not envs or not steps:
        return turn.end
    return math.ceil(turn.end / (envs * steps)) * envs * steps


def common_turns(group: Group) -> list[Turn] | None:
    """Turns of all seeds of a group; None where they differ, empty where it is not continual."""
    first, *others = [turns(run.fields) for run in group.runs]
    return first if all(other == first for other in others) else None
