"""`python -m larscope` is the command line."""

from larscope.cli import app

app()
