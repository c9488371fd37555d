"""`python -m larscope` is the command line."""

from larscope._cli.commands import app

app()
