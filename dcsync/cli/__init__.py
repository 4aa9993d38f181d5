"""The command line: options → one op → output. The only place that prints."""

from dcsync.cli.root import main

__all__ = ["main"]
