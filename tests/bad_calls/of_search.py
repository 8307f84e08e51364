"""Trees, Gumbel search, root noise, drawn actions; replay rings, sum tree, pictures moved."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lzero.mcts.gumbel import GumbelTree, halving_phases, halving_schedule
from lzero.mcts.search import RootNoise, add_noise, sample_actions, search
from lzero.mcts.tree import BatchTree
from lzero.replay.augmentation import shifted, with_random_shifts
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.storage import frames_on_disk
from lzero.replay.sum_tree import PriorityConfig, RowPriorities, SumTree
from tests.bad_calls.bad import Bad

N, M, A = 2, 3, 4
PRIOR = np.full((N, A), 1 / A, np.float32)
LEGAL = np.ones((N, A), bool)
NAN = float("nan")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tree(roots: Any = N, simulations: Any = M, actions: Any = A, **settings: Any) -> BatchTree:
    return BatchTree(roots, simulations, actions, **{"discount": 0.9} | settings)


def gumbel(**settings: Any) -> GumbelTree:
    return GumbelTree(N, M, A, discount=0.9, **settings)


def ready(selected: bool = False) -> BatchTree:
    made = tree()
    made.reset(PRIOR, LEGAL)
    if selected:
        made.select()
    return made


def expand(reward: Any = (0.0, 0.0), value: Any = (0.0, 0.0), prior: Any = PRIOR, survival=None):
    ready(selected=True).expand_and_backup(
        np.asarray(reward), np.asarray(value), prior, None if survival is None else survival
    )


class Uniform:
    """A model that knows nothing."""

    def __init__(self, prior: np.ndarray = PRIOR) -> None:
        self.prior = prior

    def begin(self, root, legal):
        return self.prior, np.zeros(N, np.float32)


def searched(legal: Any = LEGAL, made: Any = None, noise: Any = None, prior=PRIOR) -> object:
    root = SimpleNamespace(cache=None)
    return search(Uniform(prior), root, legal, ready() if made is None else made, noise)


def noise(alpha: Any = 0.3, weight: Any = 0.25, source: Any = None) -> RootNoise:
    return RootNoise(alpha, weight, rng() if source is None else source)


def sums() -> SumTree:
    made = SumTree(8)
    made.update(np.arange(4), np.ones(4))
    return made


def ring(
    tasks: Any = (0, 1),
    length: Any = 8,
    shape: Any = (3,),
    actions: Any = A,
    window: Any = 3,
    **more,
) -> ReplayBuffer:
    return ReplayBuffer(tasks, length, shape, np.float32, actions, window, **more)


ROW = {
    "observation": np.zeros((2, 3), np.float32),
    "action": np.zeros(2, np.int64),
    "reward": np.zeros(2),
    "terminated": np.zeros(2, bool),
    "truncated": np.zeros(2, bool),
    "reset": np.zeros(2, bool),
    "visits": np.full((2, A), 1 / A),
    "root_value": np.zeros(2),
}


def append(**changes: Any) -> None:
    ring().append(**ROW | changes)


def filled(**settings: Any) -> ReplayBuffer:
    made = ring(**settings)
    for _ in range(6):
        made.append(**ROW)
    return made


def prioritised() -> ReplayBuffer:
    return filled(priority=PriorityConfig())


def cut_short(folder) -> None:
    """Save, cut the file off and load it."""
    made = filled()
    made.save(folder, suffix="0")
    file = folder / "replay-0.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    made.load(folder, suffix="0")


CASES = {
    "tree without roots": Bad(lambda: tree(roots=0), "num_roots"),
    "tree without simulations": Bad(lambda: tree(simulations=-3), "num_simulations"),
    "tree without actions": Bad(lambda: tree(actions=0), "num_actions"),
    "tree of half a root": Bad(lambda: tree(roots=2.5), "num_roots=2.5", TypeError),
    "tree of text": Bad(lambda: tree(actions="4"), "num_actions='4'", TypeError),
    "tree without discount": Bad(lambda: tree(discount=0.0), "discount"),
    "tree with no number as discount": Bad(lambda: tree(discount=NAN), "discount.*nan"),
    "tree: exploration from no visits": Bad(lambda: tree(pb_c_base=0), "pb_c_base=0"),
    "tree: exploration is no number": Bad(lambda: tree(pb_c_init=NAN), "pb_c_init=nan"),
    "tree: range below zero": Bad(lambda: tree(min_max_epsilon=-1.0), "min_max_epsilon=-1.0"),
    "tree: ties without generator": Bad(lambda: tree(deterministic=False), "rng is None"),
    "tree: a seed is no generator": Bad(
        lambda: tree(deterministic=False, rng=3), "rng=3", TypeError
    ),
    "reset with other legal actions": Bad(
        lambda: tree().reset(PRIOR, LEGAL[:, :2]), r"legal.*\(2, 2\)"
    ),
    "reset with numbers as legal": Bad(
        lambda: tree().reset(PRIOR, LEGAL.astype(int)), "legal.*int64"
    ),
    "reset with no legal action": Bad(lambda: tree().reset(PRIOR, ~LEGAL), "legal.*root 0"),
    "reset with logits": Bad(lambda: tree().reset(-PRIOR, LEGAL), "prior of root 0"),
    "reset with no numbers": Bad(lambda: tree().reset(PRIOR * NAN, LEGAL), "prior of root 0"),
    "reset with text": Bad(lambda: tree().reset("uniform", LEGAL), r"prior has shape \(\)"),
    "reset with other values": Bad(
        lambda: tree().reset(PRIOR, LEGAL, np.zeros(3)), r"network_value.*\(3,\)"
    ),
    "select an illegal action": Bad(
        lambda: ready().select(np.array([0, 9])), "root_action of root 1 is 9"
    ),
    "select a fraction": Bad(
        lambda: ready().select(np.array([0.5, 1.5])), "root_action.*float64", TypeError
    ),
    "select for fewer roots": Bad(lambda: ready().select(np.array([0])), r"root_action.*\(1,\)"),
    "select before a reset": Bad(lambda: tree().select(), "reset", RuntimeError),
    "expand what was not selected": Bad(
        lambda: ready().expand_and_backup(np.zeros(N), np.zeros(N), PRIOR), "select", RuntimeError
    ),
    "expand with a reward too many": Bad(lambda: expand(reward=(0, 0, 0)), r"reward.*\(3,\)"),
    "expand with no number": Bad(lambda: expand(value=(0, NAN)), "value of root 1 is nan"),
    "expand with survival above one": Bad(
        lambda: expand(survival=np.array([0.5, 2.0])), "survival of root 1 is 2.0"
    ),
    "expand with survival below zero": Bad(
        lambda: expand(survival=np.array([-0.5, 1.0])), "survival of root 0 is -0.5"
    ),
    "rewards of unknown actions": Bad(
        lambda: ready().root_rewards(np.array([0, 9])), r"action.*9", ValueError
    ),
    "rewards of negative actions": Bad(
        lambda: ready().root_rewards(np.array([0, -1])), r"action.*-1"
    ),
    "Gumbel: no considered actions": Bad(
        lambda: gumbel(max_considered_actions=0), "max_considered_actions"
    ),
    "Gumbel: scale without end": Bad(lambda: gumbel(c_scale=float("inf")), "c_scale.*inf"),
    "Gumbel: visits no number": Bad(lambda: gumbel(c_visit=NAN), "c_visit.*nan"),
    "Gumbel: reset without values": Bad(lambda: gumbel().reset(PRIOR, LEGAL), "network_value"),
    "Gumbel with root noise": Bad(
        lambda: searched(made=gumbel(), noise=noise()), "noise.*[Gg]umbel"
    ),
    "halving among nobody": Bad(lambda: halving_phases(0, 8), "num_considered=0"),
    "halving without simulations": Bad(lambda: halving_phases(4, -1), "num_simulations=-1"),
    "schedule of nobody": Bad(lambda: halving_schedule(0, 8), "max_considered=0"),
    "search with other legal actions": Bad(lambda: searched(legal=LEGAL[:1]), r"legal.*\(1, 4\)"),
    "search of a network that predicts no numbers": Bad(
        lambda: searched(prior=PRIOR * NAN), "no numbers", FloatingPointError
    ),
    "search in no tree": Bad(lambda: searched(made=3), "tree=3", TypeError),
    "noise: alpha of zero": Bad(lambda: noise(alpha=0.0), "alpha=0.0"),
    "noise: alpha no number": Bad(lambda: noise(alpha=NAN), "alpha=nan"),
    "noise: more than all": Bad(lambda: noise(weight=2.0), "weight=2.0"),
    "noise from a seed": Bad(lambda: noise(source=7), "rng=7", TypeError),
    "noise on other legal actions": Bad(
        lambda: add_noise(PRIOR, LEGAL[0], noise()), r"legal.*\(4,\)"
    ),
    "noise where nothing is legal": Bad(lambda: add_noise(PRIOR, ~LEGAL, noise()), "legal.*root 0"),
    "draw at no temperature": Bad(lambda: sample_actions(PRIOR, 0.0, rng()), "temperature=0.0"),
    "draw at a negative temperature": Bad(
        lambda: sample_actions(PRIOR, -1.0, rng()), "temperature=-1.0"
    ),
    "draw at no number": Bad(lambda: sample_actions(PRIOR, NAN, rng()), "temperature=nan"),
    "draw by no weights": Bad(
        lambda: sample_actions(np.zeros((N, A)), 1.0, rng()), "weights.*row 0"
    ),
    "draw by negative weights": Bad(
        lambda: sample_actions(np.array([[2.0, -1.0]]), 1.0, rng()), "weights.*row 0"
    ),
    "draw in one axis": Bad(lambda: sample_actions(PRIOR[0], 1.0, rng()), r"weights.*\(4,\)"),
    "draw from a seed": Bad(lambda: sample_actions(PRIOR, 1.0, 3), "rng=3", TypeError),
    "sum tree without leaves": Bad(lambda: SumTree(0), "num_leaves"),
    "sum tree of half a leaf": Bad(lambda: SumTree(2.5), "num_leaves=2.5", TypeError),
    "mass of an unknown leaf": Bad(lambda: sums().mass(np.array([8])), "leaf"),
    "mass of half a leaf": Bad(lambda: sums().mass(np.array([0.5])), "leaf.*float64", TypeError),
    "update with a mass too few": Bad(
        lambda: sums().update(np.array([0, 1]), np.ones(1)), r"mass.*\(1,\)"
    ),
    "update with no number": Bad(
        lambda: sums().update(np.array([0]), np.array([NAN])), "mass.*nan"
    ),
    "sample an empty range": Bad(
        lambda: sums().sample(np.array([5]), np.array([6]), np.array([0.5])),
        "draw 0: leaves 5 to 6",
    ),
    "sample with a number beyond one": Bad(
        lambda: sums().sample(np.array([0]), np.array([4]), np.array([1.5])), "uniform.*1.5"
    ),
    "sample with no number": Bad(
        lambda: sums().sample(np.array([0]), np.array([4]), np.array([NAN])), "uniform.*nan"
    ),
    "mass of a range that falls": Bad(lambda: sums().range_mass(3, 1), "first=3, stop=1"),
    "priorities: alpha beyond one": Bad(lambda: PriorityConfig(alpha=2.0), "alpha"),
    "priorities: alpha as text": Bad(lambda: PriorityConfig(alpha="a"), "alpha='a'", TypeError),
    "priorities: epsilon without end": Bad(
        lambda: PriorityConfig(epsilon=float("inf")), "epsilon=inf"
    ),
    "priorities of no tasks": Bad(
        lambda: RowPriorities(np.array([], np.int64), PriorityConfig()), r"bounds.*\(0,\)"
    ),
    "ring of unsorted tasks": Bad(lambda: ring(tasks=(1, 0)), "task_id_of_ring"),
    "ring of no tasks": Bad(lambda: ring(tasks=()), "task_id_of_ring"),
    "ring of half a task": Bad(lambda: ring(tasks=(0.5, 1.0)), "task_id_of_ring.*", TypeError),
    "ring of text": Bad(lambda: ring(tasks="ab"), "task_id_of_ring='ab'", TypeError),
    "ring shorter than a window": Bad(lambda: ring(length=2), "window is 3"),
    "ring of half a step": Bad(lambda: ring(length=8.5), "ring_length=8.5", TypeError),
    "ring without actions": Bad(lambda: ring(actions=0), "num_actions"),
    "ring with a past below zero": Bad(lambda: ring(past=-1), "past=-1"),
    "ring of no pixels": Bad(lambda: ring(shape=(0,)), r"observation_shape=\(0,\)"),
    "row with another observation": Bad(
        lambda: append(observation=np.zeros((2, 4), np.float32)), r"observation.*\(2, 4\)"
    ),
    "row with an unknown action": Bad(lambda: append(action=np.array([0, 4])), "action.*4"),
    "row with half an action": Bad(
        lambda: append(action=np.array([0.5, 1.5])), "action.*float64", TypeError
    ),
    "row with a reward too few": Bad(lambda: append(reward=np.zeros(1)), r"reward.*\(1,\)"),
    "row with no number": Bad(lambda: append(reward=np.array([0.0, NAN])), r"reward\[1\]=nan"),
    "row with a value without end": Bad(
        lambda: append(root_value=np.array([np.inf, 0.0])), r"root_value\[0\]=inf"
    ),
    "row with numbers as flags": Bad(
        lambda: append(terminated=np.array([0, 2])), "terminated.*int64", TypeError
    ),
    "sample an unknown task": Bad(lambda: filled().sample({7: 1}, rng()), r"task \{7\}"),
    "sample nothing": Bad(lambda: filled().sample({0: 0}, rng()), "batch_size_of_task"),
    "sample half a window": Bad(
        lambda: filled().sample({0: 1.5}, rng()), r"batch_size_of_task\[0\]=1.5", TypeError
    ),
    "sample from a list": Bad(
        lambda: filled().sample([1, 1], rng()), r"batch_size_of_task=\[1, 1\]", TypeError
    ),
    "sample from a seed": Bad(lambda: filled().sample({0: 1}, 3), "rng=3", TypeError),
    "sample an empty ring": Bad(lambda: ring().sample({0: 1}, rng()), "0 steps", RuntimeError),
    "priorities of a uniform ring": Bad(
        lambda: filled().update_priorities([[0, 0]], [1.0]), "uniform", RuntimeError
    ),
    "priority that is no number": Bad(
        lambda: prioritised().update_priorities([[0, 0]], [NAN]), "priority.*nan"
    ),
    "a priority too few": Bad(
        lambda: prioritised().update_priorities([[0, 0], [1, 0]], [1.0]), r"priority.*\(1,\)"
    ),
    "priority of an unknown ring": Bad(
        lambda: prioritised().update_priorities([[2, 0]], [1.0]), "index.*ring 2"
    ),
    "priority of one axis": Bad(
        lambda: prioritised().update_priorities([0, 0], [1.0]), r"index.*\(2,\)"
    ),
    "save into no folder": Bad(
        lambda folder: filled().save(folder / "none", suffix="0"), "none", FileNotFoundError
    ),
    "load from an empty folder": Bad(
        lambda folder: ring().load(folder, suffix="0"), "replay-0", FileNotFoundError
    ),
    "load what was cut off": Bad(cut_short, "replay-0.safetensors"),
    "frames of a negative shape": Bad(
        lambda folder: frames_on_disk((2, -1), np.dtype(np.uint8), folder), r"shape=\(2, -1\)"
    ),
    "pictures moved by less than nothing": Bad(
        lambda: with_random_shifts(
            SimpleNamespace(observation=torch.ones(1, 1, 1, 4, 4)), -1, rng()
        ),
        "most=-1",
    ),
    "pictures moved from a seed": Bad(
        lambda: with_random_shifts(SimpleNamespace(observation=torch.ones(1, 1, 1, 4, 4)), 1, 3),
        "rng=3",
        TypeError,
    ),
    "pictures moved for other windows": Bad(
        lambda: shifted(torch.ones(2, 1, 1, 4, 4), np.zeros(3, int), np.zeros(2, int)),
        r"down.*\(3,\)",
    ),
}
