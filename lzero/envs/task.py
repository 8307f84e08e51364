"""One task of a multi-task env: what must be stated, and whether tasks fit into one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from lzero import checks

Layout = Literal["vector", "hwc", "chw", "frames_hwc"]
"""How a vector env lays out one observation: ``vector`` (F,), ``hwc`` (H, W, C), ``chw`` (C, H, W),
or ``frames_hwc`` (S, H, W, C), whose S stacked frames become S·C channels."""

_DIMENSIONS: dict[Layout, int] = {"vector": 1, "hwc": 3, "chw": 3, "frames_hwc": 4}
LARGEST_PIXEL = 10.0  # of float32 images: scaled to 0…1 or standardised ones have less
_IMAGE_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))


@dataclass(frozen=True)
class TaskEnv:
    """One task of a :class:`~lzero.envs.multitask.MultiTaskVectorEnv`."""

    env: VectorEnv
    """Its environments; closed together with the multi-task env."""
    task_id: int
    """Identity of the task in the whole run, the same on every rank."""
    name: str
    """Used in error messages."""
    layout: Layout
    """Layout of its observations; stated, because a shape alone does not tell."""
    clip_reward: bool = False
    """Learn from the sign of the reward."""
    end_on_life_loss: bool = False
    """A lost life (``info["lives"]`` decreases) ends the episode for learning; the game goes on."""
    env_offset: int = 0
    """Number of the first environment within the task; differs where several ranks share a task, so
    that no two of them play the same episodes."""
    legal_actions: tuple[int, ...] | None = None
    """Actions that may be chosen; None for all of its environments' actions."""
    reseed_after: int | None = None
    """States that its environments are deterministic, each by its seed and the actions since, and can be seeded one by one
    (:class:`~lzero.envs.port.ReplayablePort`): an episode that begins so many env steps after the last seed, or later, gets
    a seed of its own. None: no such promise; a run that continues starts them anew."""


def channels_last(native: np.ndarray, layout: Layout) -> np.ndarray:
    """Observations as ``(n, H, W, C)``, a view where possible; vectors stay ``(n, F)``."""
    if layout == "chw":
        return native.transpose(0, 2, 3, 1)
    if layout == "frames_hwc":
        n, frames, height, width, channels = native.shape
        return native.transpose(0, 2, 3, 1, 4).reshape(n, height, width, frames * channels)
    return native


def box_of(task: TaskEnv) -> Box:
    """What one of its environments observes, once :func:`check_tasks` has refused all that is no
    ``Box``.
    """
    return cast("Box", task.env.single_observation_space)


def num_actions_of(task: TaskEnv) -> int:
    """Number of actions of one of its environments, once :func:`check_tasks` has refused all but
    ``Discrete``.
    """
    return int(cast("Discrete", task.env.single_action_space).n)


def padded_size(
    field: str, wanted: int | None, sizes: Sequence[int], tasks: Sequence[TaskEnv]
) -> int:
    """``wanted``, or the largest of the tasks' ``sizes`` if None.

    Raises:
        TypeError: if ``wanted`` is no whole number.
        ValueError: if it is smaller than that; the message calls it ``field``.
    """
    largest = max(sizes)
    if wanted is not None:
        checks.count(field, wanted, 0)
    if wanted is not None and wanted < largest:
        name = tasks[sizes.index(largest)].name
        raise ValueError(
            f"{field}={wanted} is too small for task {name!r}; allowed is {largest} or more"
        )
    return wanted or largest


def common_observation_dtype(tasks: Sequence[TaskEnv]) -> np.dtype:
    """The dtype in which all tasks' observations are stored: float32 for vectors, their own for
    images.

    Raises:
        ValueError: if images differ in dtype, are neither uint8 nor float32, or are float32 with bounds far from 0: encoders
            scale uint8 alone, and features of such numbers would be hundreds of times too large.
    """
    if tasks[0].layout == "vector":
        return np.dtype(np.float32)
    common = box_of(tasks[0]).dtype
    for task in tasks:
        dtype = box_of(task).dtype
        if dtype not in _IMAGE_DTYPES or dtype != common:
            raise ValueError(
                f"task {task.name!r}: images of dtype {dtype}; allowed is uint8 or float32, the "
                "same for all "
                f"tasks (task {tasks[0].name!r} has {common}); convert them in a wrapper"
            )
        low, high = box_of(task).low.min(), box_of(task).high.max()
        if dtype == np.float32 and not -LARGEST_PIXEL <= low <= high <= LARGEST_PIXEL:
            raise ValueError(
                f"task {task.name!r}: float32 images from {low:g} to {high:g} by their Box; allowed is "
                f"{-LARGEST_PIXEL:g} to {LARGEST_PIXEL:g}: convert them to uint8 or scale them in a wrapper, and state the "
                "bounds"
            )
    return common


def common_observation_shape(
    tasks: Sequence[TaskEnv], wanted: tuple[int, ...] | None
) -> tuple[int, ...]:
    """``(C, H, W)`` or ``(F,)`` that holds every task's observation; ``wanted`` asks for a larger C
    or F.

    Raises:
        ValueError: if pictures differ in height or width, or ``wanted`` is too small.
    """
    if wanted is not None:
        checks.sizes("observation_shape", wanted)
    shapes = []
    for task in tasks:
        one = np.empty((1, *box_of(task).shape))
        shapes.append(channels_last(one, task.layout).shape[1:])
    *picture, _ = shapes[0] if wanted is None else (*wanted[1:], wanted[0])
    for task, shape in zip(tasks, shapes, strict=True):
        if list(shape[:-1]) != picture:
            raise ValueError(
                f"task {task.name!r}: observations of height and width {shape[:-1]}, allowed is "
                f"{tuple(picture)} as in the other tasks and in observation_shape; resize them in "
                "a wrapper"
            )
    *_, sizes = zip(*shapes, strict=True)  # the last number of each: C or F
    padded = padded_size(
        "observation_shape[0]", None if wanted is None else wanted[0], sizes, tasks
    )
    return (padded, *picture)


def check_tasks(tasks: Sequence[TaskEnv]) -> None:
    """Refuse tasks that cannot share a batch.

    Raises:
        TypeError: for what is no task, or numbers that are no whole ones.
        ValueError: for a repeated or negative task id, a negative offset, images beside vectors,
            observations that do not have the stated layout, actions that are not ``Discrete`` from
            0, legal actions that are none of them, or an autoreset mode other than NEXT_STEP.
    """
    if not tasks:
        raise ValueError("tasks: got none, at least one is needed")
    taken: set[int] = set()
    for index, task in enumerate(tasks):
        checks.instance(f"tasks[{index}]", task, TaskEnv, "a TaskEnv")
        checks.count("task_id", task.task_id, 0)
        checks.count("env_offset", task.env_offset, 0)
        if task.reseed_after is not None:
            checks.count("reseed_after", task.reseed_after, 0)
        where = f"task {task.name!r} (task_id {task.task_id})"
        if task.task_id in taken:
            raise ValueError(
                f"{where}: this task_id is taken by an earlier task; give every task its own"
            )
        _check_spaces(task, where)
        if (task.layout == "vector") != (tasks[0].layout == "vector"):
            raise ValueError(
                f"{where}: layout {task.layout!r} beside {tasks[0].layout!r} of task "
                f"{tasks[0].name!r}; "
                "image tasks and vector tasks cannot share one batch"
            )
        _check_autoreset(task, where)
        taken.add(task.task_id)


def _check_spaces(task: TaskEnv, where: str) -> None:
    seen, actions = task.env.single_observation_space, task.env.single_action_space
    if task.layout not in _DIMENSIONS:
        raise ValueError(
            f"{where}: unknown layout {task.layout!r}; allowed are {', '.join(_DIMENSIONS)}"
        )
    if not isinstance(seen, Box) or len(seen.shape) != _DIMENSIONS[task.layout]:
        raise ValueError(
            f"{where}: layout {task.layout!r} needs a Box of {_DIMENSIONS[task.layout]} "
            "dimensions, but the "
            f"environment observes {seen}; name the layout it has, or flatten or reshape in a "
            "wrapper"
        )
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise ValueError(
            f"{where}: actions {actions}; allowed is Discrete from 0, convert them in a wrapper"
        )
    legal = task.legal_actions
    if legal is not None and not (legal and min(legal) >= 0 and max(legal) < actions.n):
        raise ValueError(
            f"{where}: legal_actions {legal}; give at least one of 0 to {actions.n - 1}, or None "
            "for all"
        )


def _check_autoreset(task: TaskEnv, where: str) -> None:
    env = task.env.unwrapped
    mode = getattr(env, "autoreset_mode", None)
    # The dictionary that all VectorEnv classes share proves nothing: ale_py writes its latest mode
    # into it.
    if mode is None and env.metadata is not VectorEnv.metadata:
        mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"{where}: autoreset mode is {mode or 'not stated'}, allowed is "
            "AutoresetMode.NEXT_STEP; pass "
            "autoreset_mode=AutoresetMode.NEXT_STEP to the vector env (gymnasium.make_vec: "
            "vector_kwargs), "
            "or state it in the env's own metadata['autoreset_mode'] if that is how it resets"
        )
