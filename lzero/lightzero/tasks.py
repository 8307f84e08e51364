"""LightZero's configs task by task: read flat, and checked key by key."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lzero import checks
from lzero.config import nearest
from lzero.config_fields import flatten
from lzero.lightzero import conversions
from lzero.lightzero.keys import NO_DEFAULT, Key, keys

NEEDED = ("env.env_id", "policy.batch_size")
MAY_DIFFER = frozenset(
    {
        *("exp_name", "env.env_id", "env.collector_env_num", "policy.collector_env_num"),
        *("env.collect_max_episode_steps", "env.eval_max_episode_steps", "env.clip_rewards"),
        *("policy.batch_size", "policy.num_segments"),
    }
)
"""Keys in which tasks may differ; in others that matter they must agree."""
NEVER_REANALYSED = 1e-5  # of LightZero's buffer_reanalyze_freq; its configs write 1e-6 for off
MOST_SHOWN = 60  # characters of a value in the table


@dataclass(frozen=True)
class Task:
    """A task's config, flat.

    Attributes:
        number: LightZero's task id.
        given: values by key, as written.
        values: with LightZero's defaults.
    """

    number: int
    given: Mapping[str, Any]
    values: Mapping[str, Any]


def read_tasks(configs: Any) -> list[Task]:
    """Tasks of ``[[task_id, [main_config, create_config]], …]``.

    Raises:
        TypeError: if ``configs`` has another shape.
        ValueError: if it is empty.
    """
    shape = "allowed is [[task_id, [main_config, create_config]], …]"
    checks.instance("configs", configs, Sequence, shape.removeprefix("allowed is "))
    if not len(configs):
        raise ValueError(f"configs={configs}: {shape}, with one task or more")
    tasks = []
    for place, entry in enumerate(configs):
        try:
            number, (main, create) = entry
            given = dict(flatten(main)) | dict(flatten({"create_config": create}))
            number = checks.count("task_id", number, 0)
        except (TypeError, ValueError, AttributeError):
            raise TypeError(f"configs[{place}]={checks.shown(entry)}: {shape}") from None
        defaults = {}
        for path, key in keys().items():
            if key.default != NO_DEFAULT:
                defaults[path] = key.default
        tasks.append(Task(number, given, defaults | given))
    return tasks


def problems(tasks: Sequence[Task], domain: str | None) -> Iterator[str]:
    """Why these configs cannot be translated; in the order of the keys."""
    known = keys()
    everything = dict.fromkeys(path for task in tasks for path in task.given)
    for path in everything:
        if path not in known:
            yield f"{path}: unknown key; {nearest(path, list(known))}"
    needed = NEEDED if domain else (*NEEDED, "create_config.env.type")
    for path in needed:
        if any(path not in task.given for task in tasks):
            yield f"{path} is missing; give it in the config of every task"
    numbers = [task.number for task in tasks]
    if len(set(numbers)) < len(numbers):
        yield f"task_id: {numbers} names a task more than once; give each task a number of its own"
    for task in tasks:
        said = task.given.get("policy.task_id", task.number)
        if said != task.number:
            yield f"policy.task_id={said} of task {task.number}: give {task.number}"
    for path in everything:
        key = known.get(path)
        if key is not None and key.rule != "ignored":
            yield from _problems_of(key, tasks)


def _problems_of(key: Key, tasks: Sequence[Task]) -> Iterator[str]:
    values = [plain(task.values.get(key.path)) for task in tasks]
    if key.path not in MAY_DIFFER and any(value != values[0] for value in values):
        yield f"{key.path} differs between tasks ({shown(values)}); give all the same"
        return
    for task, value in zip(tasks, values, strict=True):
        if key.path not in task.given:
            continue
        problem = ""
        if key.path == "policy.buffer_reanalyze_freq":
            if not isinstance(value, int | float) or not value <= NEVER_REANALYSED:
                problem = key.text
        elif key.rule == "mapped":
            problem = conversions.type_problem(key.path, value, key.default)
        elif key.rule == "only" and value not in key.allowed:
            problem = key.text
        elif key.rule == "copy":
            other = plain(task.values.get(key.target))
            if value != other:
                problem = f"it has to equal {key.target}={other!r}"
                problem += f": {key.text}" if key.text else ""
        if problem:
            yield f"{key.path}={value!r}: {problem}"
            return


def plain(value: Any) -> Any:
    """Lists as tuples, so that they compare."""
    return tuple(value) if isinstance(value, list) else value


def shown(values: Sequence[Any]) -> str:
    """One value where all are the same, else all of them; never long."""
    same = all(value == values[0] for value in values)
    text = repr(values[0]) if same else ", ".join(map(repr, values))
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
