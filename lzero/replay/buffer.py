"""Replay of a rank: rows go in as environments step, windows of them come out.

Shape legend: R = rings (one per environment), L = ring length, A = actions, B = windows of a batch, K = rows of a window
(unroll steps + td steps + 1), P = rows of its past, ``(…)`` = shape of one observation. What a row is:
:mod:`lzero.replay.rings`.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lzero import checks
from lzero.replay.frame_chunks import Shard
from lzero.replay.rings import RowRings
from lzero.replay.sum_tree import PriorityConfig, RowPriorities
from lzero.replay.windows import ReplayWindows


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
        self._rings = RowRings(
            tasks,
            ring_length,
            self.observation_shape,
            observation_dtype,
            num_actions,
            window,
            past=self.past,
            chunk_steps=chunk_steps,
            directory=directory,
        )
        self.is_on_disk = directory is not None
        self._task_ids, first_ring = np.unique(tasks, return_index=True)
        self._ring_bounds = np.append(
            first_ring, self.num_rings
        )  # task t: rings bounds[t] to bounds[t+1]−1
        self._priorities = (
            RowPriorities(self._ring_bounds * ring_length, priority) if priority else None
        )

    @property
    def head(self) -> int:
        """Rows ever written per ring: the absolute step of the next row."""
        return self._rings.head

    @property
    def oldest(self) -> int:
        """Absolute step of the oldest live row."""
        return self._rings.oldest

    @property
    def can_sample(self) -> bool:
        """Whether there is a window."""
        if self._rings.holes:
            return bool(self._rings.starts().size)
        return self.head >= self.window

    @property
    def frame_bytes(self) -> int:
        """Bytes of a stored observation."""
        return self._rings.frames[0, 0].nbytes

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory when all rings are full; frames on the disk are not among them."""
        frames = 0 if self.is_on_disk else self._rings.frames.nbytes
        return frames + int(self.bookkeeping_bytes * self._rings.rows.size)

    @property
    def bookkeeping_bytes(self) -> float:
        """Bytes per row beside the observation, the priorities' tree included."""
        tree_bytes = self._priorities.tree.nbytes if self._priorities else 0
        return self._rings.rows.itemsize + tree_bytes / self._rings.rows.size

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
            terminated, truncated, reset: bool ``(R,)``, see :mod:`lzero.replay.rings`.
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
        overwritten = self.head
        self._rings.write(observation, row | flags)
        if self._priorities is None:
            return
        if overwritten >= self.ring_length:
            self._priorities.remove(self._leaves(overwritten))
        start = self.head - self.window
        if start >= 0 and self._rings.is_whole(np.array(start)):
            self._priorities.admit(self._leaves(start))  # enough rows follow this one now

    def cut(self) -> None:
        """Seal the rings after environments were restarted in mid-episode: no episode runs across
        the seam.

        The last row becomes a final observation (reset) and the row before it a truncation; a ring
        whose last row ends an episode by itself stays as it is.
        """
        self._rings.cut()

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
            newest = self.head - 1
            step = newest - (newest - slot) % self.ring_length
        return self._rings.gather(ring, step, weight)

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
        priorities = None
        if self._priorities:
            priorities = {
                "priority_mass": self._priorities.tree.mass(self._live_leaves()),
                "max_priority": self._priorities.max_priority,
            }
        self._rings.save(directory, suffix, previous, priorities)

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
        self._rings.chunks.forget()

    def _load(self, shards: Sequence[Shard], suffix: str) -> None:
        self._rings.forget()
        if self._priorities:
            self._priorities.tree.clear()
            self._priorities.max_priority[:] = 0.0
        for shard in shards:
            arrays, tasks = self._rings.load(
                shard, suffix, is_prioritised=self._priorities is not None
            )
            if self._priorities:
                self._load_priorities(self._priorities, arrays, shard, tasks)
        if self._priorities:
            steps = np.arange(self.oldest, self.head)
            for step in steps[~self._rings.is_whole(steps)].tolist():
                self._priorities.remove(self._leaves(step))

    def _load_priorities(
        self,
        priorities: RowPriorities,
        arrays: Mapping[str, np.ndarray],
        shard: Shard,
        tasks_then: np.ndarray,
    ) -> None:
        """Take those of a file that holds rings of ``tasks_then``."""
        own, theirs = np.array(shard.own), np.array(shard.theirs)
        mass = arrays["priority_mass"][theirs]
        priorities.tree.update(self._live_leaves()[own].ravel(), mass.ravel())
        largest, which = priorities.max_priority, np.unique(tasks_then)
        for task in np.unique(tasks_then[theirs]):
            here = np.searchsorted(self._task_ids, task)
            there = arrays["max_priority"][np.searchsorted(which, task)]
            largest[here] = max(largest[here], there)

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
                f"{self.head} steps per environment hold no window of {self.window} rows; collect "
                "more before sampling (see can_sample)"
            )
        return np.repeat(np.arange(sizes.size), sizes)

    def _draw_uniform(
        self, task: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        ring = rng.integers(self._ring_bounds[task], self._ring_bounds[task + 1])
        if self._rings.holes:
            return ring, rng.choice(self._rings.starts(), task.size)
        return ring, rng.integers(self.oldest, self.head - self.window + 1, task.size)

    def _live_leaves(self) -> np.ndarray:
        return np.arange(self.num_rings)[:, None] * self.ring_length + self._rings.live_slots()

    def _leaves(self, step: int) -> np.ndarray:
        """Leaves ``(R,)`` of the rows of an absolute step."""
        return np.arange(self.num_rings) * self.ring_length + step % self.ring_length
