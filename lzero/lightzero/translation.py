"""LightZero's multi-task configs as an experiment of ours; every key is accounted for."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from lzero import checks
from lzero.config import EnvConfig, ExperimentConfig
from lzero.envs.domain import load_domain, with_domain_settings
from lzero.lightzero import conversions
from lzero.lightzero.conversions import Fields, RefusedError
from lzero.lightzero.keys import NO_DEFAULT, keys
from lzero.lightzero.tasks import Task, plain, problems, read_tasks, shown

DOMAINS = {"atari_lightzero": "zoo.atari.domain:ATARI"}
"""Our domain by ``create_config.env.type``."""


@dataclass(frozen=True)
class Row:
    """What became of a key.

    Attributes:
        key: of LightZero, dotted.
        value: as it was written; of several tasks all of them.
        status: ``mapped``, ``default`` (LightZero's default, since the key is missing), ``checked`` (it
            says what is so here anyway) or ``ignored``.
        target: our field, where it is mapped.
        note: reason, or how it was converted.
    """

    key: str
    value: str
    status: str
    target: str
    note: str


@dataclass(frozen=True)
class Translation:
    """An experiment, and where each of its values comes from."""

    experiment: ExperimentConfig
    rows: tuple[Row, ...]

    def table(self) -> Table:
        """The rows for a terminal."""
        table = Table(title="LightZero's keys here", title_justify="left")
        for column in ("key", "value", "", "here", "note"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(row.key, row.value, row.status, row.target, row.note)
        return table


def translate_config(
    configs: Sequence[Any], *, max_env_step: int | None = None, domain: str | None = None
) -> Translation:
    """An experiment from ``[[task_id, [main_config, create_config]], …]``.

    Args:
        configs: a pair per task; dicts or EasyDicts. The place in the list becomes our task id.
        max_env_step: env steps per game; None takes our default.
        domain: import path of the games' domain, for games that are not LightZero's Atari.

    Raises:
        TypeError: if ``configs`` has another shape.
        ValueError: in one line, for unknown keys (with the nearest known one), for values that have no
            counterpart here (with what to do), for tasks that differ where they must not, and for
            values that our schema refuses.
    """
    tasks = read_tasks(configs)
    refused = list(problems(tasks, domain))
    if refused:
        raise ValueError("; ".join(refused))
    try:
        fields = _fields(tasks, domain)
    except RefusedError as error:
        raise ValueError(str(error)) from error
    if max_env_step is not None:
        fields["train.max_env_steps"] = max_env_step
    return Translation(_experiment(fields), tuple(_rows(tasks, fields)))


def _fields(tasks: Sequence[Task], domain: str | None) -> Fields:
    """Our fields by dotted path."""
    values = tasks[0].values
    fields: Fields = {}
    for path, key in keys().items():
        value = values.get(path)
        if key.rule != "mapped" or path in conversions.MADE_TOGETHER or path not in values:
            continue
        if path in conversions.SIMPLE:
            target, convert = conversions.SIMPLE[path]
            fields[target] = convert(value)
        else:
            fields[key.target] = value
    for together in conversions.TOGETHER:
        fields |= together(values)
    fields |= conversions.encoder(values, len(tasks))
    fields |= _names(tasks)
    fields |= _games(tasks, domain, fields)
    return fields


def _games(tasks: Sequence[Task], domain: str | None, fields: Fields) -> Fields:
    """Games, and what single ones do differently."""
    if domain is None:
        kind = tasks[0].values["create_config.env.type"]
        if not isinstance(kind, str) or kind not in DOMAINS:
            raise RefusedError(
                f"create_config.env.type={kind!r}: allowed are {', '.join(DOMAINS)}; for other games "
                "give domain='package.module:ATTRIBUTE'"
            )
        domain = DOMAINS[kind]
    loaded = load_domain(domain)
    settings = getattr(loaded, "settings", EnvConfig)
    for path in [path for path in fields if path.startswith("env.")]:
        if path.removeprefix("env.") not in settings.model_fields:
            del fields[path]  # a setting of Atari's that this domain does not have
    games, of_games = [], []
    for task in tasks:
        games.append(conversions.game_of(task.values["env.env_id"], loaded.games))
        of_game = {
            "num_envs": task.values["env.collector_env_num"],
            "clip_reward": task.values["env.clip_rewards"],
            "batch_size": conversions.batch_size_of(task.values, task.number),
        }
        if "env.collect_max_episode_steps" in task.values:
            of_game["max_episode_steps"] = task.values["env.collect_max_episode_steps"]
        of_games.append(of_game)
        segments = task.values["policy.num_segments"] / of_game["num_envs"]
        if segments != tasks[0].values["policy.num_segments"] / of_games[0]["num_envs"]:
            raise RefusedError(
                "policy.num_segments over env.collector_env_num differs between tasks; give all the "
                "same: environments of all games take as many steps in a round"
            )
    overrides: dict[str, dict[str, Any]] = {}
    common: dict[str, Any] = {}
    for name in of_games[0]:
        common[name] = Counter(of_game.get(name) for of_game in of_games).most_common(1)[0][0]
    for game, of_game in zip(games, of_games, strict=True):
        for name, value in of_game.items():
            if value != common[name]:
                overrides.setdefault(game, {})[name] = value
    places = {name: f"env.{name}" for name in common} | {"batch_size": "policy.batch_size"}
    found = {places[name]: value for name, value in common.items()}
    fewest = min(tasks, key=lambda task: task.values["env.collector_env_num"])
    found |= conversions.rhythm(fewest.values)  # a run counts env steps of this game
    return found | {"env.domain": domain, "env.games": games, "env.overrides": overrides}


def _names(tasks: Sequence[Task]) -> Fields:
    """The one folder of a run, from those of its tasks."""
    names = [task.values["exp_name"] for task in tasks if "exp_name" in task.values]
    if not names:
        return {"exp_name": "lightzero"}
    for name in names:
        if not isinstance(name, str):
            raise RefusedError(f"exp_name={checks.shown(name)}: allowed is a text")
    is_mixed = len({os.path.isabs(name) for name in names}) > 1
    common = Path("" if is_mixed else os.path.commonpath(names))
    if not common.name:
        raise RefusedError(
            f"exp_name={checks.shown(names)}: tasks share no folder; give names such as 'study/Pong' "
            "and 'study/Boxing', which are one run 'study' here"
        )
    fields: Fields = {"exp_name": common.name}
    if common.parent != Path("."):
        fields["output_dir"] = str(common.parent)
    return fields


def _experiment(fields: Fields) -> ExperimentConfig:
    data: dict[str, Any] = {}
    for path, value in fields.items():
        *sections, name = path.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    try:
        return with_domain_settings(data)
    except ValidationError as error:
        said = []
        for one in error.errors():
            place_of = ".".join(map(str, one["loc"]))
            message = " ".join(one["msg"].removeprefix("Value error, ").split())
            origin = [path for path, key in keys().items() if key.target == place_of]
            said.append(f"{' or '.join(origin) or place_of}: {message}")
        raise ValueError("; ".join(said)) from error


def _rows(tasks: Sequence[Task], fields: Fields) -> Iterator[Row]:
    overruled = conversions.without_effect(tasks[0].values)
    for path, key in keys().items():
        values = [plain(task.given[path]) for task in tasks if path in task.given]
        target = key.target if key.rule == "mapped" else ""
        note = key.text
        status = {"mapped": "mapped", "ignored": "ignored"}.get(key.rule, "checked")
        if target and not any(
            target == field or target.startswith(f"{field}.") for field in fields
        ):
            target, status, note = "", "ignored", "without effect: what it belongs to is not there"
        if path in overruled:
            target, status, note = "", "ignored", "without effect: another key overrules it"
        if values:
            yield Row(path, shown(values), status, target, "" if status == "checked" else note)
        elif status == "mapped" and key.default not in (NO_DEFAULT, None):
            yield Row(path, shown([key.default]), "default", target, note)
