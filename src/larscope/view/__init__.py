"""`larscope view`: the report's page, served on this machine with what a file cannot hold. Needs the extra `view`."""

from larscope.view.exhibit import Exhibit
from larscope.view.server import make_server, serve

__all__ = ["Exhibit", "make_server", "serve"]
