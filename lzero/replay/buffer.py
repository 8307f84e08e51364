"""Replay ring of all environments of a rank, and the windows drawn from it.

Shape legend: R = rings (one per environment), L = ring length, A = actions, B = windows of a batch,
K = rows of a window (unroll steps + td steps + 1), P = rows of its past, ``(…)`` = shape of one
observation.

A row is one environment step: observation s_t, action a_t taken there, reward r_t, flags, visit
distribution and root value of the search at s_t. Environments step in lockstep, so one write head
serves all rings; rows are named by absolute step (0 is the first row ever written) and live in slot
``step % L``.

Flags follow gymnasium's ``AutoresetMode.NEXT_STEP``: a row with ``reset`` holds an observation at
which no action counts, the final one of an ended episode, and the next row is the first of a new
episode. A lost life sets ``terminated`` with no reset row behind it: the game goes on in the next
row. So an episode reaches to its row with ``terminated``, or else to that with ``reset``; behind a
death the reset row stands alone.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from lzero import checks
from lzero.replay.frame_chunks import FrameChunks, Shard
from lzero.replay.storage import frames_on_disk
from lzero.replay.sum_tree import PriorityConfig, RowPriorities

TERMINATED, TRUNCATED, RESET = 1, 2, 4  # bits of a row's flags


@dataclass(frozen=True)
class ReplayWindows:
    """B windows of K consecutive rows, sorted by task id, and what was seen and done before them."""

    observation: Tensor
    """``(B, P+K, …)`` in the buffer's dtype; images ``(B, P+K, C, H, W)`` as views of channels-last
    memory.
    """
    action: Tensor
    """int64 ``(B, P+K)``."""
    reward: Tensor
    """float32 ``(B, K)``."""
    terminated: Tensor
    """bool ``(B, K)``: the row's action ended the episode by death (or cost a life)."""
    truncated: Tensor
    """bool ``(B, K)``: the row's action ended the episode by a limit."""
    reset: Tensor
    """bool ``(B, K)``: the row is a final observation, its action does not count."""
    visits: Tensor
    """float32 ``(B, K, A)``: visit distribution."""
    root_value: Tensor
    """float32 ``(B, K)``."""
    task_id: Tensor
    """int64 ``(B,)``."""
    weight: Tensor
    """float32 ``(B,)``: importance weights, at most 1; all 1 when sampling is uniform."""
    index: Tensor
    """int64 ``(B, 2)``: ring and absolute step of the first row, for ``update_priorities``."""
    age: Tensor
    """int64 ``(B,)``: env steps taken in the ring since (and with) the first row."""
    episode: Tensor
    """int64 ``(B, P+K)``: number of the episode that a row belongs to, counted along the window; −1 for
    a row that was overwritten or lost and means nothing."""


class ReplayBuffer:
    """The last L rows of every environment of a rank; memory grows with the rows and stays put
    after L steps.

    Args:
        task_id_of_ring: int ``(R,)``, not decreasing.
        ring_length: L, rows kept per environment.
        observation_shape: channel-first shape of one observation; three axes are an image, kept as
            HWC.
        observation_dtype: of the observations; they are stored as they are.
        num_actions: A.
        window: K, at least 2.
        past: P, rows in front of a window that are sampled with it.
        priority: how to prioritise; None samples uniformly.
        chunk_steps: steps per frame file of a checkpoint.
        directory: where the frames lie, in a file that goes with the process; None for memory.

    Raises:
        MemoryError: if the rings are larger than the address space.
        OSError: if the disk has not enough room for the frames.
        TypeError: for sizes or tasks that are no whole numbers.
        ValueError: for rings not sorted by task, a ring shorter than a window, or sizes below the
            minimum.
    """

    def __init__(
        self,
        task_id_of_ring: np.ndarray,
        ring_length: int,
        observation_shape: tuple[int, ...],
        observation_dtype: np.dtype | type,
        num_actions: int,
        window: int,
        *,
        past: int = 0,
        priority: PriorityConfig | None = None,
        chunk_steps: int = 256,
        directory: Path | None = None,
    ) -> None:
        tasks = checks.integers("task_id_of_ring", task_id_of_ring).astype(np.int64)
        if tasks.ndim != 1 or not tasks.size or (np.diff(tasks) < 0).any():
            raise ValueError(
                f"task_id_of_ring is {tasks.tolist()}; it must be (R,), R >= 1, sorted by task"
            )
        checks.count("ring_length", ring_length)
        checks.count("num_actions", num_actions)
        checks.count("chunk_steps", chunk_steps)
        if checks.count("window", window, 0) < 2 or ring_length < window:
            raise ValueError(f"window is {window}; it must be in 2…{ring_length} (ring_length)")
        self.task_id_of_ring, self.num_rings = tasks, tasks.size
        self.ring_length, self.window, self.num_actions = ring_length, window, num_actions
        self.past = checks.count("past", past, 0)
        self.observation_shape = checks.sizes("observation_shape", observation_shape)
        self._head = 0
        self._holes: list[
            tuple[int, int]
        ] = []  # (first, stop) of absolute steps whose frames are lost
        self._is_image = len(self.observation_shape) == 3
        stored_shape = self.observation_shape
        if self._is_image:
            stored_shape = (*stored_shape[1:], stored_shape[0])
        shape = (self.num_rings, ring_length, *stored_shape)
        if directory is None:
            # Zeros, not empty: such pages become resident only when they are first written.
            self._frames = np.zeros(shape, observation_dtype)
        else:
            self._frames = frames_on_disk(shape, np.dtype(observation_dtype), directory)
        self.is_on_disk = directory is not None
        # One packed record per row, so that a window is one run of memory.
        record: list[tuple] = [
            ("action", np.min_scalar_type(num_actions - 1)),
            ("reward", np.float32),
            ("flags", np.uint8),
            ("visits", np.float32, (num_actions,)),
            ("root_value", np.float32),
        ]
        self._rows = np.zeros((self.num_rings, ring_length), record)
        self._columns = ("action", "reward", "flags", "visits", "root_value")
        self._task_ids, first_ring = np.unique(tasks, return_index=True)
        self._ring_bounds = np.append(
            first_ring, self.num_rings
        )  # task t: rings bounds[t] to bounds[t+1]−1
        self._priorities = (
            RowPriorities(self._ring_bounds * ring_length, priority) if priority else None
        )
        self._chunks = FrameChunks(chunk_steps)

    @property
    def head(self) -> int:
        """Rows ever written per ring: the absolute step of the next row."""
        return self._head

    @property
    def oldest(self) -> int:
        """Absolute step of the oldest live row."""
        return max(0, self._head - self.ring_length)

    @property
    def can_sample(self) -> bool:
        """Whether there is a window."""
        if self._holes:
            return bool(self._starts().size)
        return self._head >= self.window

    @property
    def frame_bytes(self) -> int:
        """Bytes of a stored observation."""
        return self._frames[0, 0].nbytes

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory when all rings are full; frames on the disk are not among them."""
        frames = 0 if self.is_on_disk else self._frames.nbytes
        return frames + int(self.bookkeeping_bytes * self._rows.size)

    @property
    def bookkeeping_bytes(self) -> float:
        """Bytes per row beside the observation, the priorities' tree included."""
        tree_bytes = self._priorities.tree.nbytes if self._priorities else 0
        return self._rows.itemsize + tree_bytes / self._rows.size

    def append(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        reset: np.ndarray,
        visits: np.ndarray,
        root_value: np.ndarray,
    ) -> None:
        """Write one row per ring over the oldest one.

        Args:
            observation: ``(R, …)`` in the buffer's dtype; channel-first views of HWC memory copy
                fastest.
            action: int ``(R,)`` taken at the observation.
            reward, root_value: ``(R,)``.
            terminated, truncated, reset: bool ``(R,)``, see the head of this file.
            visits: ``(R, A)`` visit distribution.

        Raises:
            TypeError: for actions that are no whole numbers, or flags that are no booleans.
            ValueError: for a wrong shape, another dtype of the observation, an action out of
                range, or what is not finite.
        """
        observation, action = np.asarray(observation), checks.integers("action", action)
        terminated, truncated, reset = map(np.asarray, (terminated, truncated, reset))
        row = {"action": action, "reward": reward, "visits": visits, "root_value": root_value}
        flags = {"terminated": terminated, "truncated": truncated, "reset": reset}
        self._check_row(observation, row | flags)
        row["flags"] = terminated * TERMINATED + truncated * TRUNCATED + reset * RESET
        slot = self._head % self.ring_length
        if self._priorities and self._head >= self.ring_length:
            self._priorities.remove(self._leaves(self._head))
        self._frames[:, slot] = np.moveaxis(observation, 1, -1) if self._is_image else observation
        for name, values in row.items():
            self._rows[name][:, slot] = values
        self._head += 1
        start = self._head - self.window
        if self._priorities and start >= 0 and self._is_whole(np.array(start)):
            self._priorities.admit(self._leaves(start))  # enough rows follow this one now

    def cut(self) -> None:
        """Seal the rings after environments were restarted in mid-episode: no episode runs across
        the seam.

        The last row becomes a final observation (reset) and the row before it a truncation; a ring
        whose last row ends an episode by itself stays as it is.
        """
        if self._head == 0:
            return
        flags, last = self._rows["flags"], (self._head - 1) % self.ring_length
        is_open = (flags[:, last] & (TERMINATED | RESET)) == 0
        flags[is_open, last] = RESET
        if self._head > 1:
            before = (self._head - 2) % self.ring_length
            flags[is_open & (flags[:, before] == 0), before] = TRUNCATED

    def sample(
        self, batch_size_of_task: Mapping[int, int], rng: np.random.Generator
    ) -> ReplayWindows:
        """Draw windows of live rows that do not cross the write head.

        Args:
            batch_size_of_task: windows to draw per task id; a task that is not named gets none.
            rng: source of the draws.

        Returns:
            Windows sorted by task id, independent within a task.

        Raises:
            TypeError: for a batch size that is no whole number, or an ``rng`` that is no generator.
            ValueError: for a task that has no ring here, or a batch size that is negative or zero
                in total.
            RuntimeError: if there is no window yet.
        """
        checks.generator("rng", rng)
        task = self._task_of_draw(batch_size_of_task)
        if self._priorities is None:
            ring, step = self._draw_uniform(task, rng)
            weight = np.ones(task.size)
        else:
            leaf, weight = self._priorities.sample(task, rng)
            ring, slot = np.divmod(leaf, self.ring_length)
            step = self._head - 1 - (self._head - 1 - slot) % self.ring_length
        return self._gather(ring, step, weight)

    def update_priorities(self, index: ArrayLike, priority: ArrayLike) -> None:
        """Set the priority of windows; those overwritten since they were drawn are left out.

        Args:
            index: ``(B, 2)`` as sampled.
            priority: ``(B,)``, finite and not negative.

        Raises:
            RuntimeError: if the buffer samples uniformly.
            ValueError: for other priorities, shapes or rings.
        """
        if self._priorities is None:
            raise RuntimeError("the buffer samples uniformly; build it with a PriorityConfig")
        index = checks.integers("index", index)
        checks.shape("index", index, None, 2)
        priority = np.asarray(priority, np.float64)
        checks.shape("priority", priority, len(index))
        ring, step = index.T
        if ring.size and not 0 <= ring.min() <= ring.max() < self.num_rings:
            raise ValueError(
                f"index names ring {ring.max()}; the rings are 0 to {self.num_rings - 1}"
            )
        leaf = ring * self.ring_length + step % self.ring_length
        live = (step >= self.oldest) & (self._priorities.tree.mass(leaf) > 0)
        self._priorities.update(leaf[live], priority[live])

    def save(self, directory: Path, *, suffix: str, previous: Path | None = None) -> None:
        """Write the live rows into an existing, fresh directory.

        Args:
            directory: where to write.
            suffix: ends the stem of every file, to tell ranks apart.
            previous: directory of an earlier checkpoint; full frame files that it holds are
                hard-linked.

        Raises:
            FileNotFoundError: if there is no such directory.
        """
        if not directory.is_dir():
            raise FileNotFoundError(f"directory={directory} does not exist")
        chunks = self._chunks.save(
            self._frames, self.oldest, self._head, directory, suffix, previous
        )
        rows = self._rows[:, self._live_slots()]
        arrays = {name: np.ascontiguousarray(rows[name]) for name in self._columns}
        if self._priorities:
            arrays["priority_mass"] = self._priorities.tree.mass(self._live_leaves())
            arrays["max_priority"] = self._priorities.max_priority
        holes = [hole for hole in self._holes if hole[1] > self.oldest]
        header = {
            "head": self._head,
            "chunks": chunks,
            "holes": holes,
            "layout": self._layout(np.arange(self.num_rings)),
        }
        save_file(
            arrays,
            directory / f"replay-{suffix}.safetensors",
            metadata={"header": json.dumps(header)},
        )

    def load(self, directory: Path, *, suffix: str, lost: Collection[str] = ()) -> None:
        """Replace the content by that of a checkpoint, bit for bit.

        Args:
            directory: what :meth:`save` wrote.
            suffix: as when it was written.
            lost: names of frame files that cannot be read; windows with their frames are not sampled.

        Raises:
            FileNotFoundError: if a file of the checkpoint is missing.
            ValueError: if the checkpoint's buffer was built with other arguments, or its files do not fit together.
        """
        rings = range(self.num_rings)
        self._load([Shard(directory, rings, rings, lost)], suffix)

    def load_shards(self, shards: Sequence[Shard], *, suffix: str) -> None:
        """Replace the content by rings that other buffers have saved: no file is linked to by the next checkpoint.

        Args:
            shards: together all rings of this buffer.
            suffix: as when they were written.

        Raises:
            FileNotFoundError, ValueError: as :meth:`load`, and if they are not of one moment.
        """
        self._load(shards, suffix)
        self._chunks.forget()

    def _load(self, shards: Sequence[Shard], suffix: str) -> None:
        self._head, self._holes = -1, []
        if self._priorities:
            self._priorities.tree.clear()
            self._priorities.max_priority[:] = 0.0
        for shard in shards:
            self._load_shard(shard, suffix)
        if self._priorities:
            steps = np.arange(self.oldest, self._head)
            for step in steps[~self._is_whole(steps)].tolist():
                self._priorities.remove(self._leaves(step))

    def _load_shard(self, shard: Shard, suffix: str) -> None:
        path = shard.directory / f"replay-{suffix}.safetensors"
        own, theirs = np.array(shard.own), np.array(shard.theirs)
        with _opened(path) as file:
            header = json.loads(file.metadata()["header"])
            tasks_then = np.array(header["layout"]["task_id_of_ring"])
            layout = header["layout"] | {"task_id_of_ring": tasks_then[theirs].tolist()}
            for name, value in self._layout(own).items():
                if layout[name] != value:
                    raise ValueError(
                        f"{name} is {value}, but {path} was saved with {layout[name]}; use that one"
                    )
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if self._head not in (-1, header["head"]):
            raise ValueError(
                f"{path} ends at step {header['head']}, files beside it at {self._head}"
            )
        self._head = int(header["head"])
        slots = self._live_slots()
        for name in self._columns:
            if arrays[name].shape != (tasks_then.size, *self._rows[name][0, slots].shape):
                raise ValueError(f"{name} of {path} has shape {arrays[name].shape}")
            self._rows[name][own[:, None], slots] = arrays[name][theirs]
        holes = self._chunks.load(self._frames, self.oldest, self._head, shard, header["chunks"])
        self._holes += [(int(first), int(stop)) for first, stop in [*header["holes"], *holes]]
        if self._priorities:
            mass = arrays["priority_mass"][theirs]
            self._priorities.tree.update(self._live_leaves()[own].ravel(), mass.ravel())
            largest, which = self._priorities.max_priority, np.unique(tasks_then)
            for task in np.unique(tasks_then[theirs]):
                here = np.searchsorted(self._task_ids, task)
                there = arrays["max_priority"][np.searchsorted(which, task)]
                largest[here] = max(largest[here], there)

    def _check_row(self, observation: np.ndarray, row: dict[str, np.ndarray]) -> None:
        shape, dtype = (self.num_rings, *self.observation_shape), self._frames.dtype
        if observation.shape != shape or observation.dtype != dtype:
            given = f"{observation.dtype} {observation.shape}"
            raise ValueError(f"observation is {given}; it must be {dtype} {shape}")
        for name, values in row.items():
            shape = (self.num_rings, self.num_actions) if name == "visits" else (self.num_rings,)
            if np.shape(values) != shape:
                raise ValueError(f"{name} has shape {np.shape(values)}; it must be {shape}")
            if name in ("terminated", "truncated", "reset"):
                checks.flags(name, values)
            else:
                checks.finite(name, values)
        low, high = row["action"].min(), row["action"].max()
        if low < 0 or high >= self.num_actions:
            raise ValueError(
                f"action spans {low} to {high}; it must be within 0 to {self.num_actions - 1}"
            )

    def _task_of_draw(self, batch_size_of_task: Mapping[int, int]) -> np.ndarray:
        """Sorted ``(B,)`` positions in ``_task_ids``."""
        checks.mapping("batch_size_of_task", batch_size_of_task, "windows by task id")
        unknown = set(batch_size_of_task) - set(self._task_ids.tolist())
        if unknown:
            raise ValueError(
                f"no ring holds task {unknown}; the tasks here are {self._task_ids.tolist()}"
            )
        sizes = np.zeros(len(self._task_ids), np.int64)
        for place, task_id in enumerate(self._task_ids.tolist()):
            size = batch_size_of_task.get(task_id, 0)
            sizes[place] = checks.count(f"batch_size_of_task[{task_id}]", size, 0)
        if sizes.min() < 0 or sizes.sum() == 0:
            raise ValueError(
                f"batch_size_of_task is {batch_size_of_task}; sizes must be >= 0 and not all 0"
            )
        if not self.can_sample:
            raise RuntimeError(
                f"{self._head} steps per environment hold no window of {self.window} rows; collect "
                "more before sampling (see can_sample)"
            )
        return np.repeat(np.arange(sizes.size), sizes)

    def _draw_uniform(
        self, task: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        ring = rng.integers(self._ring_bounds[task], self._ring_bounds[task + 1])
        if self._holes:
            return ring, rng.choice(self._starts(), task.size)
        return ring, rng.integers(self.oldest, self._head - self.window + 1, task.size)

    def _starts(self) -> np.ndarray:
        """Absolute steps at which windows may start."""
        steps = np.arange(self.oldest, self._head - self.window + 1)
        return steps[self._is_whole(steps)]

    def _is_whole(self, step: np.ndarray) -> np.ndarray:
        """Whether no frame of the windows at ``step`` is lost."""
        whole = np.ones(step.shape, np.bool_)
        for first, stop in self._holes:
            whole &= (step + self.window <= first) | (step >= stop)
        return whole

    def _gather(self, ring: np.ndarray, step: np.ndarray, weight: np.ndarray) -> ReplayWindows:
        slots = (step[:, None] + np.arange(-self.past, self.window)) % self.ring_length
        index = ring[:, None] * self.ring_length + slots
        every_row = self._rows.reshape(-1).take(index)
        rows = every_row[:, self.past :]
        # numpy, not torch.index_select: its large results come on huge pages, which spares most
        # page faults, and a memory copy gains nothing from threads that others may be holding.
        frames = torch.from_numpy(
            self._frames.reshape(-1, *self._frames.shape[2:]).take(index, axis=0)
        )
        return ReplayWindows(
            observation=frames.movedim(-1, 2) if self._is_image else frames,
            action=torch.from_numpy(every_row["action"].astype(np.int64)),
            reward=torch.from_numpy(rows["reward"].copy()),
            terminated=torch.from_numpy((rows["flags"] & TERMINATED) > 0),
            truncated=torch.from_numpy((rows["flags"] & TRUNCATED) > 0),
            reset=torch.from_numpy((rows["flags"] & RESET) > 0),
            visits=torch.from_numpy(rows["visits"].copy()),
            root_value=torch.from_numpy(rows["root_value"].copy()),
            task_id=torch.from_numpy(self.task_id_of_ring[ring]),
            weight=torch.from_numpy(weight.astype(np.float32)),
            index=torch.from_numpy(np.stack((ring, step), axis=1)),
            age=torch.from_numpy(self._head - step),
            episode=torch.from_numpy(self._episode(every_row["flags"], step)),
        )

    def _episode(self, flags: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Episodes of the rows of windows at ``step (B,)``, by their flags ``(B, P+K)``."""
        is_last = (flags & (TERMINATED | RESET)) > 0
        episode = np.zeros(flags.shape, np.int64)
        np.cumsum(is_last[:, :-1], axis=1, out=episode[:, 1:])
        steps = step[:, None] + np.arange(-self.past, self.window)
        gone = steps < self.oldest
        for first, stop in self._holes:
            gone |= (steps >= first) & (steps < stop)
        return np.where(gone, -1, episode)

    def _live_slots(self) -> np.ndarray:
        """Slots of the live rows, oldest first."""
        return np.arange(self.oldest, self._head) % self.ring_length

    def _live_leaves(self) -> np.ndarray:
        return np.arange(self.num_rings)[:, None] * self.ring_length + self._live_slots()

    def _leaves(self, step: int) -> np.ndarray:
        """Leaves ``(R,)`` of the rows of an absolute step."""
        return np.arange(self.num_rings) * self.ring_length + step % self.ring_length

    def _layout(self, rings: np.ndarray) -> dict[str, object]:
        """What a checkpoint must share with the buffer that loads it."""
        return {
            "task_id_of_ring": self.task_id_of_ring[rings].tolist(),
            "ring_length": self.ring_length,
            "observation_shape": list(self.observation_shape),
            "observation_dtype": self._frames.dtype.name,
            "num_actions": self.num_actions,
            "window": self.window,
            "prioritised": self._priorities is not None,
            "chunk_steps": self._chunks.chunk_steps,
        }


def saved_layout(directory: Path, *, suffix: str) -> dict[str, Any]:
    """What the buffer was built with whose rows :meth:`ReplayBuffer.save` has written: arguments of
    :class:`ReplayBuffer` by name, and whether it was ``prioritised``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    path = directory / f"replay-{suffix}.safetensors"
    with _opened(path) as file:
        try:
            return dict(json.loads(file.metadata()["header"])["layout"])
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not say what is in it ({error!r})") from error


def _opened(path: Path) -> safe_open:
    """A file of arrays; ValueError where it is damaged."""
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
