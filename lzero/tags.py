"""Names of logged numbers that one room writes and another reads.

A tag is a path: ``eval_return/Pong``, ``gradient_conflict/max_router/layer0``. Constants that end
with ``/`` are the beginnings of tags; the others stand in front of a game, see :func:`of_game`.
"""

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

EXPERTS = "MOE_"
WINDOWS = {"immediate": 100, "short": 1_000, "medium": 10_000, "long": 100_000}
"""Sliding windows over the expert selection, in updates."""
SELECTION_ENTROPY = "ExpertSelectionEntropy"
USAGE_ENTROPY = "ExpertUsageEntropy"
DEAD_EXPERTS = "DeadExperts"
LOAD_IMBALANCE = "LoadImbalance"
MUTUAL_INFORMATION = "MutualInformation"  # of task and expert
EFFECTIVE_EXPERTS = "EffectiveExperts"
SELECTION_SHIFT = "SelectionShift"  # since the last log
JENSEN_SHANNON = "JS_Divergence"
TOTAL_VARIATION = "TV_Distance"
WASSERSTEIN = "Wasserstein_Distance"
SELECTION_MATRIX = "expert_selection/"
SIMILARITY_MATRIX = "task_similarity/"


def of_game(metric: str, game: str) -> str:
    """A number of one game."""
    return f"{metric}/{game}"


def game_of(tag: str, games: Iterable[str]) -> str:
    """The game whose number it is, e.g. Pong of ``eval_return/Pong``; empty if it is none's alone."""
    if tag.startswith("gradient_conflict"):  # between games; behind it stands a component
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


def task_selection(task: int | str, window: str, quantity: str) -> str:
    """How one task selects its experts."""
    return f"{EXPERTS}Details/Task{task}_{window}/{quantity}"


def expert_load(window: str, quantity: str) -> str:
    """How all tasks together use the experts."""
    return f"{EXPERTS}Global/{window}/{quantity}"


def divergence(window: str, over_pairs: str, quantity: str) -> str:
    """How far the tasks are apart; ``over_pairs`` is ``Avg`` or ``Max``."""
    return f"{EXPERTS}Divergence/{window}_{over_pairs}{quantity}"
