"""Names of logged numbers that one room writes and another reads.

A tag is a path: ``eval_return/Pong``, ``gradient_conflict/max_router/layer0``. Constants that end
with ``/`` are the beginnings of tags; the others stand in front of a game, see :func:`of_game`.
"""

import re
from collections.abc import Iterable

# Numbers of one game.
EVAL_RETURN = "eval_return"
EVAL_NORMALISED = "eval_normalised"
EVAL_SCORES = "eval_scores"  # an array: the episodes' scores
COLLECT_RETURN = "collect_return"
COLLECT_REWARD = "collect_reward"  # per 1,000 env steps
SATURATED = "learn_saturated"  # share of the returns that are larger than values can say
REWARD_RECALL = (
    "learn_reward_recall"  # share of the rewards that are predicted, of what is learned from
)

EVAL_AGGREGATE = "eval_aggregate/"
LEARN = "learn/"
HEALTH = "health/"
PREDICTED, REALISED = "_predicted", "_realised"  # behind what, e.g. a value, in front of a game
PLASTICITY = "plasticity/"
DORMANT_RATIO = f"{PLASTICITY}dormant_ratio/"
ROUTER_ENTROPY = f"{PLASTICITY}router_entropy/"
GAME_ROUTER_ENTROPY = "router_entropy_"  # a mixture's name and a game follow
WEIGHT_NORM = f"{PLASTICITY}weight_norm/"
GRADIENT_NORM = f"{PLASTICITY}gradient_norm/"
EFFECTIVE_RANK = f"{PLASTICITY}effective_rank/"  # of what an output layer sees
NTK_RANK = f"{PLASTICITY}ntk_effective_rank/"
GRADIENT_SIMILARITY = f"{PLASTICITY}sequential_gradient_similarity"
"""Cosine between the gradients of consecutive updates."""

CONFLICT = "gradient_conflict/"
CONFLICT_MATRIX = "gradient_conflict_matrix/"
CONFLICT_MEASURES = ("max", "avg", "rate", "null", "pairs", "reliability")
"""Of the pairs of games: largest conflict, mean, share of pairs in conflict; the largest to be expected of unrelated
gradients; number of pairs; cosine between the gradients of two halves of a game's rows, mean over games."""
DENOISED = "denoised"  # mean conflict without noise, of one measurement: the report pools several
CONFLICT_NORMS = "gradient_conflict_norms/"
CONFLICT_SIGNAL = "gradient_conflict_signal/"  # squared norms without noise, right on average
CONFLICT_HALF_NORMS = "gradient_conflict_half_norms/"
CONFLICT_SHARE = "gradient_conflict_share/"  # of a layer's negative scalar products, in its parts
CONFLICT_NORM_SHARE = "gradient_conflict_norm_share/"  # of its squared gradient norms
CONFLICT_EXCESS = "gradient_conflict_excess/"  # the first over the second
CONFLICT_MATCHED = "gradient_conflict_matched/"  # largest conflict on the pairs that both have

EXPERTS = "moe_"
WINDOWS = {"immediate": 100, "short": 1_000, "medium": 10_000, "long": 100_000}
"""Sliding windows over the expert selection, in updates."""
SELECTION_ENTROPY = "selection_entropy"
SELECTION_VARIANCE = "selection_variance"
USAGE_ENTROPY = "usage_entropy"
DEAD_EXPERTS = "dead_experts"
LOAD_IMBALANCE = "load_imbalance"
MUTUAL_INFORMATION = "mutual_information"  # of task and expert
NORMALISED = "_normalised"  # behind a quantity: over the most that it can be
EFFECTIVE_EXPERTS = "effective_experts"
SELECTION_SHIFT = "selection_shift"  # since the last log
MOST_USED = "most_used_expert"
LEAST_USED = "least_used_expert"
JENSEN_SHANNON = "jensen_shannon"
TOTAL_VARIATION = "total_variation"
WASSERSTEIN = "wasserstein"
SELECTION_MATRIX = "expert_selection/"
SELECTION_UPDATES = "expert_selection_updates/"  # an array: updates in a window, by task
SIMILARITY_MATRIX = "task_similarity/"


def of_game(metric: str, game: str) -> str:
    """A number of one game."""
    return f"{metric}/{game}"


def game_of(tag: str, games: Iterable[str]) -> str:
    """The game whose number it is, e.g. Pong of ``eval_return/Pong``; empty if it is none's alone."""
    # between games, a component behind it; or of windows of updates, in which all games share
    if tag.startswith(("gradient_conflict", EXPERTS)):
        return ""
    longest = ""
    for game in games:
        if tag.endswith(f"/{game}") and len(game) > len(longest):
            longest = game
    return longest


def of_layer(tag: str, layer: int) -> str:
    """What one layer has of a number; the tag itself is the mean over layers."""
    return f"{tag}/layer{layer}"


def conflict(measure: str, component: str) -> str:
    """Conflict of the games' gradients at a component, e.g. ``router/layer0``."""
    return f"{CONFLICT}{measure}_{component}"


def task_selection(game: str, window: str, quantity: str) -> str:
    """How one game selects its experts."""
    return of_game(selection(window, quantity), game)


def selection(window: str, quantity: str) -> str:
    """How games select their experts; a game follows."""
    return f"{EXPERTS}task/{window}/{quantity}"


def expert_load(window: str, quantity: str) -> str:
    """How all tasks together use the experts."""
    return f"{EXPERTS}load/{window}/{quantity}"


def divergence(window: str, over_pairs: str, quantity: str) -> str:
    """How far the tasks are apart; ``over_pairs`` is ``avg`` or ``max``."""
    return f"{EXPERTS}divergence/{window}/{over_pairs}_{quantity}"


def selection_quantity(tag: str) -> str:
    """The quantity of a number of the expert selection, whichever window, game or layer it is of."""
    return (tag.split("/") + ["", ""])[2]


def selecting_game(tag: str, games: Iterable[str]) -> str:
    """The game of a :func:`task_selection`, also of one layer's; empty for all other tags."""
    if not tag.startswith(f"{EXPERTS}task/"):
        return ""
    behind = tag.split("/", 3)[-1]
    for game in games:
        if behind == game or behind.startswith(f"{game}/layer"):
            return game
    return ""


ORDER = (
    ("about/", 0),
    (f"{EVAL_RETURN}/", 10),
    (f"{COLLECT_REWARD}/", 11),
    (f"{COLLECT_RETURN}/", 12),
    (f"{EVAL_NORMALISED}/", 13),
    (EVAL_AGGREGATE, 14),
    ("collect_", 15),
    (LEARN, 20),
    ("learn_", 21),
    (HEALTH, 30),
    (PLASTICITY, 31),
    (GAME_ROUTER_ENTROPY, 32),
    (CONFLICT, 40),
    ("gradient_conflict_", 41),
    (EXPERTS, 50),
    (SELECTION_MATRIX, 51),
    (SIMILARITY_MATRIX, 52),
    ("rate/", 60),
    ("time/", 61),
    ("replay/", 62),
    ("checkpoint/", 63),
)
"""Families by what a reader asks first, and the number that puts them there: is it getting better, is it
learning, is it sound, do the games conflict, who uses which expert, what does it cost."""
NUMBER = re.compile(r"^\d\d_")
OTHERS = 90  # families that nobody here writes, such as those of a callback


def numbered(tag: str) -> str:
    """The tag as TensorBoard has it, which sorts families by name: ``10_eval_return/Pong``.

    What follows the number and its underscore is the tag of every other log.
    """
    for prefix, number in ORDER:
        if tag.startswith(prefix):
            return f"{number:02d}_{tag}"
    return f"{OTHERS:02d}_{tag}"


def plain(tag: str) -> str:
    """The tag of every other log, of one as TensorBoard has it; itself where it is one already."""
    return NUMBER.sub("", tag)
