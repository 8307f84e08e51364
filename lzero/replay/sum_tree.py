"""Prioritised drawing: a sum tree over leaves, and the priorities of replay rows kept in it.

Shape legend: B = draws or updates of one call, P = leaves, rounded up to a power of two. ``nodes``
is a float64 ``(2P,)`` heap: node 1 is the root, the children of node i are 2i and 2i + 1, leaf j is
node P + j. Every inner node is recomputed as the sum of its two children, so rounding errors never
build up.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lzero import checks
from lzero.jit import compiled


@compiled
def _update(nodes, leaf_B, mass_B):
    num_leaves = nodes.shape[0] // 2
    for i in range(leaf_B.shape[0]):
        node = num_leaves + leaf_B[i]
        nodes[node] = mass_B[i]
        while node > 1:
            node //= 2
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]


@compiled
def _range_sum(nodes, first, stop):
    """Mass of leaves first … stop − 1, from the O(log P) subtrees that make up the range."""
    num_leaves = nodes.shape[0] // 2
    low, high, total = num_leaves + first, num_leaves + stop, 0.0
    while low < high:
        if low % 2 == 1:
            total += nodes[low]
            low += 1
        if high % 2 == 1:
            high -= 1
            total += nodes[high]
        low //= 2
        high //= 2
    return total


@compiled
def _find_subtree(nodes, first, stop, target):
    """The subtree of the range, in the order of ``_range_sum``, that holds ``target``, and the rest
    of it.
    """
    num_leaves = nodes.shape[0] // 2
    low, high, last = num_leaves + first, num_leaves + stop, 0
    while low < high:
        for side in range(2):
            node = 0
            if side == 0 and low % 2 == 1:
                node = low
                low += 1
            elif side == 1 and high % 2 == 1:
                high -= 1
                node = high
            if nodes[node] > 0:
                if target < nodes[node]:
                    return node, target
                target -= nodes[node]
                last = node
        low //= 2
        high //= 2
    return last, nodes[last]  # rounding pushed the target past the end: the last subtree with mass


@compiled
def _descend(nodes, node, target):
    """Leaf of the subtree in which ``target`` falls; whatever the rounding, one with mass."""
    num_leaves = nodes.shape[0] // 2
    while node < num_leaves:
        node *= 2
        left, right = nodes[node], nodes[node + 1]
        if target >= left and right > 0:
            target -= left
            node += 1
    return node - num_leaves


@compiled
def _sample(nodes, first_B, stop_B, uniform_B, leaf_B):
    """Fill ``leaf_B``; returns the first draw whose range has no mass, else -1."""
    for i in range(leaf_B.shape[0]):
        total = _range_sum(nodes, first_B[i], stop_B[i])
        if total <= 0:
            return i
        node, target = _find_subtree(nodes, first_B[i], stop_B[i], uniform_B[i] * total)
        leaf_B[i] = _descend(nodes, node, target)
    return -1


class SumTree:
    """Non-negative masses over leaves 0 … num_leaves − 1, all zero at first; O(log) time per update
    or draw.

    Memory is 16 to 32 bytes per leaf, of which only touched parts become resident.

    Args:
        num_leaves: leaves.

    Raises:
        ValueError: for fewer than one leaf.

    Source: prioritised experience replay (arXiv 1511.05952), appendix B.2.1.
    """

    def __init__(self, num_leaves: int) -> None:
        self.num_leaves = checks.count("num_leaves", num_leaves)
        self._nodes = np.zeros(2 * (1 << (num_leaves - 1).bit_length()), np.float64)

    @property
    def nbytes(self) -> int:
        """Bytes of the tree."""
        return self._nodes.nbytes

    def mass(self, leaf: np.ndarray) -> np.ndarray:
        """float64 ``(B,)``: mass of leaves ``(B,)``."""
        return self._nodes[self._nodes.size // 2 + self._checked("leaf", leaf, self.num_leaves - 1)]

    def range_mass(self, first: int, stop: int) -> float:
        """Mass of leaves first … stop − 1; ValueError where ``stop`` comes before ``first``."""
        (low,) = self._checked("first", [first], self.num_leaves)
        (high,) = self._checked("stop", [stop], self.num_leaves)
        if low > high:
            raise ValueError(f"first={low}, stop={high}: the first must not be above the second")
        return float(_range_sum(self._nodes, low, high))

    def clear(self) -> None:
        """Set every mass to zero."""
        self._nodes.fill(0)

    def update(self, leaf: np.ndarray, mass: np.ndarray) -> None:
        """Set the mass of leaves; the last entry counts where a leaf is named twice.

        Args:
            leaf: int ``(B,)``.
            mass: ``(B,)``, finite and not negative.

        Raises:
            ValueError: for leaves out of range, other masses or different lengths.
        """
        leaf, mass = (
            self._checked("leaf", leaf, self.num_leaves - 1),
            np.ascontiguousarray(mass, np.float64),
        )
        if mass.shape != leaf.shape:
            raise ValueError(f"mass has shape {mass.shape}; it must be that of leaf, {leaf.shape}")
        if not (np.isfinite(mass) & (mass >= 0)).all():
            raise ValueError(
                f"mass spans {mass.min()} to {mass.max()}; it must be finite and not negative"
            )
        _update(self._nodes, leaf, mass)

    def sample(self, first: np.ndarray, stop: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Draw one leaf per range, with probability mass / mass of the range.

        Args:
            first, stop: int ``(B,)``: draw i comes from leaves ``first[i]`` … ``stop[i] − 1``.
            uniform: ``(B,)`` random numbers in [0, 1).

        Returns:
            int64 ``(B,)`` leaves, each with mass.

        Raises:
            ValueError: for a range without mass or out of bounds, numbers outside [0, 1), or
                different lengths.
        """
        first = self._checked("first", first, self.num_leaves)
        stop = self._checked("stop", stop, self.num_leaves)
        uniform = np.ascontiguousarray(uniform, np.float64)
        if not first.shape == stop.shape == uniform.shape:
            shapes = f"{first.shape}, {stop.shape} and {uniform.shape}"
            raise ValueError(f"first, stop and uniform have shapes {shapes}; they must be the same")
        if not ((uniform >= 0) & (uniform < 1)).all():
            raise ValueError(
                f"uniform spans {uniform.min()} to {uniform.max()}; it must be in [0, 1)"
            )
        leaf = np.empty(first.shape, np.int64)
        empty = _sample(self._nodes, first, stop, uniform, leaf)
        if empty >= 0:
            raise ValueError(f"draw {empty}: leaves {first[empty]} to {stop[empty]} have no mass")
        return leaf

    @staticmethod
    def _checked(name: str, index: ArrayLike, largest: int) -> np.ndarray:
        index = np.ascontiguousarray(checks.integers(name, index), np.int64)
        if index.size and not (index.min() >= 0 and index.max() <= largest):
            raise ValueError(
                f"{name} spans {index.min()} to {index.max()}; it must be within 0 to {largest}"
            )
        return index


@dataclass(frozen=True)
class PriorityConfig:
    """Prioritised sampling: a row is drawn with probability ∝ (priority + epsilon)^alpha within its
    task.

    Raises:
        ValueError: for an alpha or beta outside [0, 1], or an epsilon that is not positive.

    Source: prioritised experience replay (arXiv 1511.05952).
    """

    alpha: float = 0.6
    """Exponent of the priority; 0 draws uniformly."""
    beta: float = 0.4
    """Exponent of the importance weights; 1 undoes the bias of the draw fully."""
    epsilon: float = 1e-6
    """Added to every priority, so that no row is out of reach for ever."""

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            checks.number(name, getattr(self, name), 0.0, 1.0)
        checks.number("epsilon", self.epsilon, 0.0, above=True)


class RowPriorities:
    """Masses of the rows of T tasks: leaves ``bounds[t]`` … ``bounds[t + 1] − 1`` belong to task t.

    Rows that may not be drawn have mass zero. A row comes in with the largest priority seen so far
    in its task (1 before any update), so that it is drawn soon; tasks are apart: their errors
    differ in scale.

    Args:
        bounds: int ``(T + 1,)``, rising from 0 to the number of leaves.
        config: exponents.

    Raises:
        ValueError: if there is no task.
    """

    def __init__(self, bounds: np.ndarray, config: PriorityConfig) -> None:
        if np.ndim(bounds) != 1 or len(bounds) < 2:
            raise ValueError(f"bounds has shape {np.shape(bounds)}: allowed is (T + 1,), T >= 1")
        self.tree = SumTree(int(bounds[-1]))
        self.max_priority = np.ones(len(bounds) - 1)
        self._bounds, self._config = bounds, config

    def admit(self, leaf: np.ndarray) -> None:
        """Make rows drawable, with the largest priority of their task."""
        self.update(leaf, self.max_priority[self._task_of(leaf)])

    def remove(self, leaf: np.ndarray) -> None:
        """Make rows not drawable."""
        self.tree.update(leaf, np.zeros(leaf.shape))

    def update(self, leaf: np.ndarray, priority: np.ndarray) -> None:
        """Set priorities of drawable rows; ValueError unless finite and not negative."""
        if not (np.isfinite(priority) & (priority >= 0)).all():
            span = f"{priority.min()} to {priority.max()}"
            raise ValueError(f"priority spans {span}; it must be finite and not negative")
        self.tree.update(leaf, (priority + self._config.epsilon) ** self._config.alpha)
        np.maximum.at(self.max_priority, self._task_of(leaf), priority)

    def sample(self, task: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw one row for every entry of ``task``.

        Args:
            task: int ``(B,)``, sorted.
            rng: source of the draws.

        Returns:
            Leaves int64 ``(B,)`` and importance weights float64 ``(B,)``: probability^−beta,
            divided by the largest of the task in this call.
        """
        leaf = self.tree.sample(self._bounds[task], self._bounds[task + 1], rng.random(task.size))
        mass = self.tree.mass(leaf)
        # Within a task, probability is mass over a constant that the division by the largest weight
        # cancels.
        _, first, segment = np.unique(task, return_index=True, return_inverse=True)
        return leaf, (mass / np.minimum.reduceat(mass, first)[segment]) ** -self._config.beta

    def _task_of(self, leaf: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._bounds, leaf, side="right") - 1
