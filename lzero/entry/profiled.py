"""What a run's profilers watch: learning with the conflict analysis, and collecting with the search."""

from lzero.analysis.conflict import gram_matrices
from lzero.analysis.points import RowLayout
from lzero.analysis.task_gradients import TaskGradients
from lzero.mcts.search import search
from lzero.policy.losses import add_up, latent_moments, loss_sums, spread_shortfall, weighted_total
from lzero.policy.targets import make_batch, value_targets
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.profiling import Profilers
from lzero.worker.actor import Actor
from lzero.worker.collector import Collector

LEARNING = (
    make_batch,
    value_targets,
    loss_sums,
    latent_moments,
    add_up,
    spread_shortfall,
    weighted_total,
)
ANALYSIS = (TaskGradients, RowLayout, gram_matrices)
COLLECTING = (Actor, search)


def watch(profilers: Profilers, policy: UniZeroMTPolicy, collector: Collector) -> None:
    """Profile the update and collecting, if profilers are on."""
    profilers.watch(policy, "learn", *LEARNING, *ANALYSIS, is_update=True)
    profilers.watch(collector, "collect", *COLLECTING)
