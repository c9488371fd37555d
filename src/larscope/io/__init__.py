"""Reading: one file a format, one table of readers, found by content before extension. No torch."""

from larscope.io.reader import Reader, Request
from larscope.io.readers import READERS, open_movie
from larscope.io.table import BrokenRun, read_runs, read_session

__all__ = ["READERS", "BrokenRun", "Reader", "Request", "open_movie", "read_runs", "read_session"]
