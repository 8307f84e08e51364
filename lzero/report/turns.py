"""Turns of games in continual runs of PPO, from their configs as they lie on disk.

The rules are those of :class:`lzero.config_ppo.PPOExperiment`, which a config of another version
need not fit. Env steps are those of the run's clock, on which the steps of all games add up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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


def is_ppo(fields: Mapping[str, Any]) -> bool:
    """Whether it is a run of PPO, by a flat config."""
    return fields.get("algorithm") == "ppo"


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
    return changes(turns(fields))


def played_turns(fields: Mapping[str, Any]) -> list[Turn]:
    """Turns as they are played: a round of steps that has begun is finished before games change.

    So a turn ends up to a round late, and one that is over by then is left out. Where the length of
    rounds is not known, it is :func:`turns`.

    Raises:
        RunDataError: as :func:`turns`.
    """
    found: list[Turn] = []
    end = 0
    for turn in turns(fields):
        envs = fields.get(f"env.overrides.{turn.game}.num_envs") or fields.get("env.num_envs") or 1
        steps = envs * (fields.get("train.collect_steps") or 1)  # of a round
        until = math.ceil(turn.end / steps) * steps
        if until > end:
            found.append(Turn(turn.game, end, until))
            end = until
    return found


def changes(found: Sequence[Turn]) -> list[int]:
    """Env steps at which one of the turns begins whose game is another than that of the one before."""
    return [turn.start for last, turn in pairwise(found) if turn.game != last.game]


def common_turns(group: Group) -> list[Turn] | None:
    """Turns as all seeds of a group play them; None where they differ, empty where the group is not
    continual.
    """
    first, *others = [played_turns(run.fields) for run in group.runs]
    return first if all(other == first for other in others) else None
