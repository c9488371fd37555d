"""Long computations outside the page's thread, with a sign of progress."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from bokeh.document import Document

from larscope._errors import LarscopeError


@dataclass(frozen=True, eq=False)
class Request:
    """A computation, its name on the page, and the function to show its result or `LarscopeError`."""

    what: str
    compute: Callable[[], Any]
    show: Callable[[Any], None]


class Background:
    """Computes for one page, one thing at a time; among waiting requests only the latest counts.

    Parameters
    ----------
    page
        What results are shown on. Everything but the computations runs on its thread, with its lock.
    executor
        Where computations run.
    on_busy
        Told what is under way, and None when nothing is.
    """

    def __init__(self, page: Document, executor: Executor, on_busy: Callable[[str | None], None]) -> None:
        self._page = page
        self._executor = executor
        self._on_busy = on_busy
        self._wanted: Request | None = None
        self._running: Request | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return self._running is not None

    def ask(self, what: str, compute: Callable[[], Any], show: Callable[[Any], None]) -> None:
        """Compute something and then show it, unless something else is asked for in the meantime."""
        self._wanted = Request(what, compute, show)
        self._go_on()

    def forget(self) -> None:
        """Drop all requests: nobody wants them any more."""
        self._wanted = None

    def _go_on(self) -> None:
        if self._running is not None:
            return
        self._running = self._wanted
        self._on_busy(None if self._running is None else self._running.what)
        if self._running is not None:
            self._executor.submit(self._running.compute).add_done_callback(self._report)

    def _report(self, done: "Future[Any]") -> None:
        """Go back to the page's thread: this one is the executor's."""
        self._page.add_next_tick_callback(lambda: self._finish(done))

    def _finish(self, done: "Future[Any]") -> None:
        finished, self._running = self._running, None
        error = done.exception()
        if finished is not None and finished is self._wanted:
            self._wanted = None
            if error is None or isinstance(error, LarscopeError):
                finished.show(done.result() if error is None else error)
        self._go_on()
        if error is not None and not isinstance(error, LarscopeError):
            raise error
