"""The command line: parses, calls, prints. No science."""

from larscope.cli.commands import app

__all__ = ["app"]
