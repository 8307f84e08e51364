"""The rows that a rank remembers of every environment, their windows, and their files.

Shape legend: R = rings (one per environment), L = ring length, A = actions, B = windows of a batch, K = rows of a window, P =
rows of its past, ``(…)`` = shape of one observation.

A row is one environment step: observation s_t, action a_t taken there, reward r_t, flags, visit distribution and root value of
the search at s_t. Environments step in lockstep, so one write head serves all rings; rows are named by absolute step (0 is the
first row ever written) and live in slot ``step % L``.

Flags follow gymnasium's ``AutoresetMode.NEXT_STEP``: a row with ``reset`` holds an observation at which no action counts, the
final one of an ended episode, and the next row is the first of a new episode. A lost life sets ``terminated`` with no reset row
behind it: the game goes on in the next row. So an episode reaches to its row with ``terminated``, or else to that with
``reset``; behind a death the reset row stands alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lzero import checks
from lzero.replay.frame_chunks import FrameChunks, Shard
from lzero.replay.storage import frames_on_disk
from lzero.replay.windows import ReplayWindows

TERMINATED, TRUNCATED, RESET = 1, 2, 4  # bits of a row's flags


class RowRings:
    """The last L rows of R environments.

    Args:
        task_id_of_ring: int64 ``(R,)``.
        ring_length: L.
        observation_shape: channel-first shape of one observation; three axes are an image, kept as HWC.
        observation_dtype: of the observations; they are stored as they are.
        num_actions: A.
        window: K.
        past: P, rows in front of a window that come with it.
        chunk_steps: steps per frame file of a checkpoint.
        directory: where the frames lie, in a file that goes with the process; None for memory.

    Attributes:
        frames: observations ``(R, L, …)``.
        rows: everything else ``(R, L)``, one packed record per row, so that a window is one run of memory.
        head: rows ever written per ring: the absolute step of the next row.
        holes: (first, stop) of absolute steps whose frames are lost.

    Raises:
        MemoryError: if the rings are larger than the address space.
        OSError: if the disk has not enough room for the frames.
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
        past: int,
        chunk_steps: int,
        directory: Path | None,
    ) -> None:
        self.task_id_of_ring, self.num_rings = task_id_of_ring, task_id_of_ring.size
        self.length, self.window, self.past = ring_length, window, past
        self.num_actions, self.observation_shape = num_actions, observation_shape
        self.head = 0
        self.holes: list[tuple[int, int]] = []
        self._is_image = len(observation_shape) == 3
        stored_shape = observation_shape
        if self._is_image:
            stored_shape = (*stored_shape[1:], stored_shape[0])
        shape = (self.num_rings, ring_length, *stored_shape)
        if directory is None:
            # Zeros, not empty: such pages become resident only when they are first written.
            self.frames = np.zeros(shape, observation_dtype)
        else:
            self.frames = frames_on_disk(shape, np.dtype(observation_dtype), directory)
        record: list[tuple] = [
            ("action", np.min_scalar_type(num_actions - 1)),
            ("reward", np.float32),
            ("flags", np.uint8),
            ("visits", np.float32, (num_actions,)),
            ("root_value", np.float32),
        ]
        self.rows = np.zeros((self.num_rings, ring_length), record)
        self.columns = tuple(name for name, *_ in record)
        self.chunks = FrameChunks(chunk_steps)

    @property
    def oldest(self) -> int:
        """Absolute step of the oldest live row."""
        return max(0, self.head - self.length)

    def write(self, observation: np.ndarray, row: Mapping[str, np.ndarray]) -> None:
        """Write one row per ring over the oldest one.

        Args:
            observation: ``(R, …)`` in the rings' dtype; channel-first views of HWC memory copy fastest.
            row: :attr:`columns` by name, but ``terminated``, ``truncated`` and ``reset`` in place of ``flags``.

        Raises:
            TypeError: for flags that are no booleans.
            ValueError: for a wrong shape, another dtype of the observation, an action out of range, or what is not finite.
        """
        self._check(observation, row)
        flags = row["terminated"] * TERMINATED + row["truncated"] * TRUNCATED + row["reset"] * RESET
        slot = self.head % self.length
        self.frames[:, slot] = np.moveaxis(observation, 1, -1) if self._is_image else observation
        for name in self.columns:
            self.rows[name][:, slot] = flags if name == "flags" else row[name]
        self.head += 1

    def cut(self) -> None:
        """Seal the rings, as :meth:`ReplayBuffer.cut <lzero.replay.buffer.ReplayBuffer.cut>` says."""
        if self.head == 0:
            return
        flags, last = self.rows["flags"], (self.head - 1) % self.length
        is_open = (flags[:, last] & (TERMINATED | RESET)) == 0
        flags[is_open, last] = RESET
        if self.head > 1:
            before = (self.head - 2) % self.length
            flags[is_open & (flags[:, before] == 0), before] = TRUNCATED

    def starts(self) -> np.ndarray:
        """Absolute steps at which windows may start."""
        steps = np.arange(self.oldest, self.head - self.window + 1)
        return steps[self.is_whole(steps)]

    def is_whole(self, step: np.ndarray) -> np.ndarray:
        """Whether no frame of the windows at ``step`` is lost."""
        whole = np.ones(step.shape, np.bool_)
        for first, stop in self.holes:
            whole &= (step + self.window <= first) | (step >= stop)
        return whole

    def gather(self, ring: np.ndarray, step: np.ndarray, weight: np.ndarray) -> ReplayWindows:
        """Windows in ``ring (B,)`` from absolute ``step (B,)`` on, with their weights ``(B,)``."""
        slots = (step[:, None] + np.arange(-self.past, self.window)) % self.length
        index = ring[:, None] * self.length + slots
        every_row = self.rows.reshape(-1).take(index)
        rows = every_row[:, self.past :]
        # numpy, not torch.index_select: its large results come on huge pages, which spares most
        # page faults, and a memory copy gains nothing from threads that others may be holding.
        frames = torch.from_numpy(
            self.frames.reshape(-1, *self.frames.shape[2:]).take(index, axis=0)
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
            age=torch.from_numpy(self.head - step),
            episode=torch.from_numpy(self._episode(every_row["flags"], step)),
        )

    def live_slots(self) -> np.ndarray:
        """Slots of the live rows, oldest first."""
        return np.arange(self.oldest, self.head) % self.length

    def save(
        self,
        directory: Path,
        suffix: str,
        previous: Path | None,
        priorities: Mapping[str, np.ndarray] | None,
    ) -> None:
        """Write the live rows, as :meth:`ReplayBuffer.save <lzero.replay.buffer.ReplayBuffer.save>` says.

        Args:
            directory, suffix, previous: as there.
            priorities: arrays that go into the same file; None where windows are drawn uniformly.
        """
        chunks = self.chunks.save(self.frames, self.oldest, self.head, directory, suffix, previous)
        rows = self.rows[:, self.live_slots()]
        arrays = {name: np.ascontiguousarray(rows[name]) for name in self.columns}
        header = {
            "head": self.head,
            "chunks": chunks,
            "holes": [hole for hole in self.holes if hole[1] > self.oldest],
            "layout": self._layout(np.arange(self.num_rings), priorities is not None),
        }
        save_file(
            arrays | dict(priorities or {}),
            directory / f"replay-{suffix}.safetensors",
            metadata={"header": json.dumps(header)},
        )

    def forget(self) -> None:
        """Before rows are loaded."""
        self.head, self.holes = -1, []

    def load(
        self, shard: Shard, suffix: str, *, is_prioritised: bool
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Take rings from a file.

        Args:
            shard: which rings.
            suffix: as when they were written.
            is_prioritised: whether the file must have priorities.

        Returns:
            The file's arrays, and the tasks of the rings that it holds.

        Raises:
            FileNotFoundError: if a file of the checkpoint is missing.
            ValueError: if the rings were built with other arguments, or the files do not fit together.
        """
        path = shard.directory / f"replay-{suffix}.safetensors"
        own, theirs = np.array(shard.own), np.array(shard.theirs)
        with _opened(path) as file:
            header = json.loads(file.metadata()["header"])
            tasks_then = np.array(header["layout"]["task_id_of_ring"])
            layout = header["layout"] | {"task_id_of_ring": tasks_then[theirs].tolist()}
            for name, value in self._layout(own, is_prioritised).items():
                if layout[name] != value:
                    raise ValueError(
                        f"{name} is {value}, but {path} was saved with {layout[name]}; use that one"
                    )
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if self.head not in (-1, header["head"]):
            raise ValueError(
                f"{path} ends at step {header['head']}, files beside it at {self.head}"
            )
        self.head = int(header["head"])
        slots = self.live_slots()
        for name in self.columns:
            if arrays[name].shape != (tasks_then.size, *self.rows[name][0, slots].shape):
                raise ValueError(f"{name} of {path} has shape {arrays[name].shape}")
            self.rows[name][own[:, None], slots] = arrays[name][theirs]
        holes = self.chunks.load(self.frames, self.oldest, self.head, shard, header["chunks"])
        self.holes += [(int(first), int(stop)) for first, stop in [*header["holes"], *holes]]
        return arrays, tasks_then

    def _check(self, observation: np.ndarray, row: Mapping[str, np.ndarray]) -> None:
        shape, dtype = (self.num_rings, *self.observation_shape), self.frames.dtype
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

    def _episode(self, flags: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Episodes of the rows of windows at ``step (B,)``, by their flags ``(B, P+K)``."""
        is_last = (flags & (TERMINATED | RESET)) > 0
        episode = np.zeros(flags.shape, np.int64)
        np.cumsum(is_last[:, :-1], axis=1, out=episode[:, 1:])
        steps = step[:, None] + np.arange(-self.past, self.window)
        gone = steps < self.oldest
        for first, stop in self.holes:
            gone |= (steps >= first) & (steps < stop)
        return np.where(gone, -1, episode)

    def _layout(self, rings: np.ndarray, is_prioritised: bool) -> dict[str, object]:
        """What a checkpoint must share with the buffer that loads it."""
        return {
            "task_id_of_ring": self.task_id_of_ring[rings].tolist(),
            "ring_length": self.length,
            "observation_shape": list(self.observation_shape),
            "observation_dtype": self.frames.dtype.name,
            "num_actions": self.num_actions,
            "window": self.window,
            "prioritised": is_prioritised,
            "chunk_steps": self.chunks.chunk_steps,
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
