"""What a run's profilers watch: learning with the conflict analysis, and collecting with the search."""

from lzero.analysis.conflict import gram_matrices
from lzero.analysis.points import RowLayout
from lzero.analysis.task_gradients import TaskGradients
from lzero.mcts.search import search
from lzero.policy.losses import latent_moments, spread_shortfall, task_sums, weighted_total
from lzero.policy.targets import value_targets
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.policy.update import Pass, Totals
from lzero.profiling import Profilers
from lzero.worker.actor import Actor
from lzero.worker.collector import Collector

LEARNING = (Pass, Totals, task_sums, latent_moments, spread_shortfall, weighted_total, value_targets)
ANALYSIS = (TaskGradients, RowLayout, gram_matrices)
COLLECTING = (Actor, search)


def watch(profilers: Profilers, policy: UniZeroMTPolicy, collector: Collector) -> None:
    """Profile the update and collecting, if profilers are on."""
    profilers.watch(policy, "learn", *LEARNING, *ANALYSIS, is_update=True)
    profilers.watch(collector, "collect", *COLLECTING)
