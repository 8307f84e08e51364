"""Where the time goes in detail, on request: line by line, and operator by operator.

Off, this module imports nothing and wraps nothing. On, the methods of a few objects are wrapped
while the run lasts, on rank 0 alone; both files are also written when the run ends by an error or
Ctrl-C.
"""

import functools
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lzero.config import ProfileConfig

if TYPE_CHECKING:
    from torch.profiler import profile

logger = logging.getLogger(__name__)

LINE_PROFILE_FILE = "line_profile.txt"
TRACE_FILE = "trace.json"
WARM_UP_UPDATES = (
    10  # they allocate memory and choose kernels; the last one also shows how large a trace gets
)
TRACED_UPDATES = 3  # enough to see what repeats
TRACE_BYTES = 50e6  # viewers open this at once; an update takes 2 MB, one that also searches 20


class Profilers:
    """The profilers that a run was asked for; a context manager that writes their files when it
    closes.

    Args:
        config: which profilers are on.
        run_dir: folder of the run; an earlier profile in it is replaced.
        is_main: whether this process measures; on the others :meth:`watch` does nothing.

    Raises:
        ImportError: if the line profiler is wanted and its package is missing, on every rank; says
            what to install.
    """

    def __init__(self, config: ProfileConfig, run_dir: Path, *, is_main: bool) -> None:
        if config.line_profiler and importlib.util.find_spec("line_profiler") is None:
            raise ImportError(
                "policy.profile.line_profiler=true needs the package line_profiler, an optional "
                "extra. Install it:\n"
                "pip install line_profiler\n"
                "or, in a checkout of this project: pip install -e .[profile]"
            )
        self._lines = (
            LineTimes(run_dir / LINE_PROFILE_FILE) if is_main and config.line_profiler else None
        )
        self._trace = (
            UpdateTrace(run_dir / TRACE_FILE) if is_main and config.torch_profiler else None
        )
        self._restore = ExitStack()

    def watch(
        self, owner: object, method: str, *inner: Callable | type, is_update: bool = False
    ) -> None:
        """Profile a method of one object until the context closes.

        Args:
            owner: whose method it is; its class stays as it is.
            method: name of the method. The line profiler counts while it runs.
            inner: functions, and classes for their methods, whose lines are timed besides those of
                ``owner``'s class.
            is_update: each call is an update of the network, which the trace may show. A watched
                method that is none, called between updates, ends a trace that has begun: collecting
                    would fill many times its size.

        Raises:
            AttributeError: if ``owner`` has no such method.
        """
        if self._lines is None and self._trace is None:
            return
        original = getattr(owner, method)
        if self._lines is not None:
            self._lines.add(type(owner), *inner)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as contexts:
                if self._trace is not None:
                    contexts.enter_context(
                        self._trace.update() if is_update else self._trace.something_else()
                    )
                if self._lines is not None:
                    contexts.enter_context(self._lines.counting())
                return original(*args, **kwargs)

        if method in vars(owner):
            self._restore.callback(setattr, owner, method, original)
        else:
            self._restore.callback(delattr, owner, method)
        setattr(owner, method, watched)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as closing:  # every step is taken, also where an earlier one fails
            if self._trace is not None:
                closing.callback(self._trace.close)
            if self._lines is not None:
                closing.callback(self._lines.write)
            closing.callback(self._restore.close)


class LineTimes:
    """Time of every line of chosen functions, through the package line_profiler."""

    def __init__(self, path: Path) -> None:
        from line_profiler import LineProfiler

        self._path = path
        self._profiler = LineProfiler()

    def add(self, *sources: Callable | type) -> None:
        """Time the lines of functions, and of the methods that classes define themselves."""
        for source in sources:
            for function in (
                _functions_of(source) if inspect.isclass(source) else [inspect.unwrap(source)]
            ):
                self._profiler.add_function(function)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Time while the context is open; contexts may nest."""
        self._profiler.enable_by_count()
        try:
            yield
        finally:
            self._profiler.disable_by_count()

    def write(self) -> None:
        """Write the table: functions that ran, with hits, time and share of each line, in
        milliseconds.
        """
        with self._path.open("w", encoding="utf-8") as file:
            self._profiler.print_stats(file, output_unit=1e-3, stripzeros=True, summarize=True)
        logger.info("times of lines: %s", self._path)


class UpdateTrace:
    """A trace of a few consecutive updates after a warm-up, in the format that chrome://tracing and
    Perfetto read.

    The last update of the warm-up is traced too, and replaced: the first trace of a process is slow
    to begin, and its size tells how many updates fit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._updates = 0
        self._until = WARM_UP_UPDATES
        self._inside = False
        self._profile: profile | None = None

    @contextmanager
    def update(self) -> Iterator[None]:
        """One update of the network; one within another is part of it."""
        from torch.profiler import record_function

        if self._inside:
            yield
            return
        if self._updates in (WARM_UP_UPDATES - 1, WARM_UP_UPDATES):
            self._start()
        self._inside = True
        try:
            with record_function("update"):
                yield
        finally:
            self._inside = False
            self._updates += 1
            if self._updates == self._until:
                self._finish()
            if self._updates == WARM_UP_UPDATES:
                self._until += max(
                    1, min(TRACED_UPDATES, int(TRACE_BYTES // self._path.stat().st_size))
                )

    @contextmanager
    def something_else(self) -> Iterator[None]:
        """Anything but an update; within one it belongs to it."""
        if not self._inside:
            self._finish()
        yield

    def close(self) -> None:
        """Write what there is; call it at the end of the run."""
        self._finish()
        if self._updates < WARM_UP_UPDATES:
            logger.warning(
                "no %s: the run ended after %d updates, and the first %d are a warm-up",
                self._path,
                self._updates,
                WARM_UP_UPDATES,
            )

    def _start(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profile = profile(activities=activities)
        self._profile.start()

    def _finish(self) -> None:
        if self._profile is None:
            return
        running, self._profile = self._profile, None
        running.stop()
        running.export_chrome_trace(str(self._path))
        if self._updates > WARM_UP_UPDATES:
            logger.info(
                "trace of updates: %s (open it in ui.perfetto.dev or chrome://tracing)", self._path
            )


def _functions_of(cls: type) -> Iterator[Callable]:
    """The functions that a class defines: methods of any kind, and getters of properties;
    decorators peeled off.
    """
    for member in vars(cls).values():
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        elif isinstance(member, property):
            member = member.fget
        function = inspect.unwrap(member) if callable(member) else None
        if inspect.isfunction(function):
            yield function
