"""Where the numbers of a run go: one class for each place, behind :class:`Sink`.

``metrics.jsonl`` is always written and is the record; the others are what ``train.loggers`` asks for, and may fail without
ending a run.
"""

from lzero.sinks.choice import LOGGERS, check_loggers, make_sinks
from lzero.sinks.sink import History, Moment, Sink, SinkError

__all__ = ["LOGGERS", "History", "Moment", "Sink", "SinkError", "check_loggers", "make_sinks"]
