"""The server: panel's, for this machine only, until it is interrupted."""

from collections.abc import Callable
from typing import Any

import panel as pn
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from larscope._errors import LarscopeError
from larscope._view.open_result import Exhibit
from larscope._view.page import build_page

OTHER_HOSTS = r"(?!(localhost|127\.0\.0\.1|::1|\[::1\])$).*"
"""Names by which no request for this machine comes: a page of a stranger may have its own name lead here."""


class _Refuse(RequestHandler):
    def prepare(self) -> None:
        raise HTTPError(403, reason="Expected a request to localhost")


def make_server(exhibit: Exhibit, port: int) -> Any:
    """Return a server of a result, bound to this machine; port 0 takes any free one."""
    report = (r"/(report\.html)", StaticFileHandler, {"path": str(exhibit.folder.resolve())})
    try:
        server = pn.io.server.get_server(
            {"/": lambda: build_page(exhibit)},
            port=port,
            address="localhost",
            extra_patterns=[report],
            title="larscope",
            start=False,
            show=False,
        )
    except OSError as error:
        raise LarscopeError(
            f"The page needs its own port: {port} is not available ({error}). Pass another `--port`; 0 takes any "
            "free one."
        ) from error
    server._tornado.add_handlers(OTHER_HOSTS, [(r".*", _Refuse)])
    return server


def serve(
    exhibit: Exhibit, *, port: int = 5006, browser: bool = True, on_start: Callable[[str], None] = lambda url: None
) -> None:
    """Serve the page of a result until Ctrl-C.

    Parameters
    ----------
    exhibit
        What to look at.
    port
        Where to listen; 0 takes any free port.
    browser
        Open the page.
    on_start
        Told the address.

    Raises
    ------
    LarscopeError
        The port is taken.
    """
    server = make_server(exhibit, port)
    try:
        on_start(f"http://localhost:{server.port}/")
        if browser:
            server.io_loop.add_callback(server.show, "/")
        server.run_until_shutdown()
    finally:
        exhibit.close()
