"""What environments must not answer, and whose fault it is where they fail."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lzero.envs.port import VectorAnswer
from lzero.envs.task import TaskEnv


class EnvironmentFaultError(RuntimeError):
    """An environment answered what it must not: no number, or another shape or dtype than it has announced."""


@contextmanager
def naming(task: TaskEnv) -> Iterator[None]:
    """Say whose fault it is where environments fail.

    Raises:
        EnvironmentFaultError: for any of their errors.
    """
    try:
        yield
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise EnvironmentFaultError(
            f"game {task.name!r} failed: {type(error).__name__}: {error} ({place.filename}:{place.lineno}); repair the "
            "environment, then the same command continues from the newest checkpoint"
        ) from error


def check_answer(task: TaskEnv, answer: VectorAnswer) -> None:
    """Refuse what would be cast, broadcast or learned from in silence.

    Raises:
        EnvironmentFaultError: naming the game, the environment's number in it and the value.
    """
    observation, reward, terminated, truncated, _ = answer
    space, n = task.env.single_observation_space, task.env.num_envs
    parts = {"reward": reward, "terminated": terminated, "truncated": truncated}
    for name, values in parts.items():
        if np.shape(values) != (n,):
            raise EnvironmentFaultError(
                f"game {task.name!r} answered {name} of shape {np.shape(values)}; expected is ({n},), one per environment"
            )
    for name in ("terminated", "truncated"):
        if not np.isin(parts[name], (0, 1)).all():
            raise EnvironmentFaultError(
                f"game {task.name!r} answered {name} {parts[name]}; expected are booleans"
            )
    expected = (n, *(space.shape or ()))
    if np.shape(observation) != expected or observation.dtype != space.dtype:
        raise EnvironmentFaultError(
            f"game {task.name!r} answered observations {observation.dtype} {np.shape(observation)}; its space announces "
            f"{space.dtype} {expected}"
        )
    numbers = {"reward": np.asarray(reward)}
    if observation.dtype.kind == "f":
        numbers["observation"] = observation
    for name, values in numbers.items():
        finite = np.isfinite(values).reshape(n, -1).all(axis=1)
        if not finite.all():
            env = int(finite.argmin())
            value = values[env] if values.ndim == 1 else values[env][~np.isfinite(values[env])][0]
            raise EnvironmentFaultError(
                f"environment {env + task.env_offset} of game {task.name!r} answered {name} {value}; what is no number is "
                "neither stored nor learned from: repair the environment, then the same command continues"
            )
