"""Tags that logs had before, translated when a log is read; LightZero's multi-task branch calls most of them so.

A log is never rewritten: whoever reads one asks :func:`translated` for the name that the number has now.
"""

import re
from collections.abc import Sequence

from lzero import tags

QUANTITIES = {
    "ExpertSelectionEntropy": tags.SELECTION_ENTROPY,
    "ExpertSelectionEntropyNormalised": f"{tags.SELECTION_ENTROPY}{tags.NORMALISED}",
    "ExpertSelectionVariance": tags.SELECTION_VARIANCE,
    "EffectiveExperts": tags.EFFECTIVE_EXPERTS,
    "SelectionShift": tags.SELECTION_SHIFT,
    "TotalSelections": "total_selections",  # not logged any more
    "DataPoints": "data_points",  # not logged any more
    "NumActiveTasks": "num_active_tasks",  # not logged any more
    "NumExperts": "num_experts",  # not logged any more
    "ExpertUsageEntropy": tags.USAGE_ENTROPY,
    "ExpertUsageEntropyNormalised": f"{tags.USAGE_ENTROPY}{tags.NORMALISED}",
    "MutualInformation": tags.MUTUAL_INFORMATION,
    "MutualInformationNormalised": f"{tags.MUTUAL_INFORMATION}{tags.NORMALISED}",
    "DeadExperts": tags.DEAD_EXPERTS,
    "LoadImbalance": tags.LOAD_IMBALANCE,
    "MostUsedExpert": tags.MOST_USED,
    "LeastUsedExpert": tags.LEAST_USED,
}
"""Of one game's selection or of all games' load: then, now."""
COMPARISONS = {
    "JS": tags.JENSEN_SHANNON,
    "TV": tags.TOTAL_VARIATION,
    "Wasserstein": tags.WASSERSTEIN,
    "JS_Divergence": tags.JENSEN_SHANNON,
    "TV_Distance": tags.TOTAL_VARIATION,
    "Wasserstein_Distance": tags.WASSERSTEIN,
}
"""Of two games' selections, in arrays and in numbers: then, now."""

DETAILS = re.compile(r"MOE_Details/Task(\d+)_([a-z]+)/(\w+)(/layer\d+)?")
LOAD = re.compile(r"MOE_Global/([a-z]+)/(\w+)(/layer\d+)?")
DIVERGENCE = re.compile(r"MOE_Divergence/([a-z]+)_(Avg|Max)(\w+?)(/layer\d+)?")
SIMILARITY = re.compile(rf"{tags.SIMILARITY_MATRIX}([a-z]+)_(JS|TV|Wasserstein)(/layer\d+)?")
PICTURE = re.compile(r"MOE_Heatmap/([a-z]+)_TaskExpert_Heatmap")
SIMILARITY_PICTURE = re.compile(r"TaskSimilarity/([a-z]+)_(JS|TV|Wasserstein)_Matrix")


def translated(tag: str, games: Sequence[str]) -> str:
    """The tag that a number has now, of one that it may have had before; itself if it is known by no other name.

    Args:
        tag: as it stands in a log.
        games: of the log's run, in the order of task ids.
    """
    if not tag.startswith(("MOE_", "TaskSimilarity/", tags.SIMILARITY_MATRIX)):
        return tag
    if match := DETAILS.fullmatch(tag):
        task, window, quantity, layer = match.groups()
        if quantity in QUANTITIES and int(task) < len(games):
            now = tags.task_selection(games[int(task)], window, QUANTITIES[quantity])
            return now + (layer or "")
    elif match := LOAD.fullmatch(tag):
        window, quantity, layer = match.groups()
        if quantity in QUANTITIES:
            return tags.expert_load(window, QUANTITIES[quantity]) + (layer or "")
    elif match := DIVERGENCE.fullmatch(tag):
        window, over_pairs, quantity, layer = match.groups()
        if quantity in COMPARISONS:
            now = tags.divergence(window, over_pairs.lower(), COMPARISONS[quantity])
            return now + (layer or "")
    elif match := SIMILARITY.fullmatch(tag) or SIMILARITY_PICTURE.fullmatch(tag):
        window, quantity, *layer = match.groups(default="")
        return f"{tags.SIMILARITY_MATRIX}{window}_{COMPARISONS[quantity]}{''.join(layer)}"
    elif match := PICTURE.fullmatch(tag):
        return f"{tags.SELECTION_MATRIX}{match[1]}"
    return tag
