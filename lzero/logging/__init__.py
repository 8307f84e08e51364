"""What a run says: curves, phase times, log lines and the progress display.

Only rank 0 speaks; on the other ranks everything here does nothing.
"""

from lzero.logging.clocks import PhaseTimer, RateMeter
from lzero.logging.console import setup_logging
from lzero.logging.progress import TrainingProgress
from lzero.logging.run_logger import RunLogger
from lzero.sinks.jsonl import METRICS_FILE, read_metrics

__all__ = [
    "METRICS_FILE",
    "PhaseTimer",
    "RateMeter",
    "RunLogger",
    "TrainingProgress",
    "read_metrics",
    "setup_logging",
]
