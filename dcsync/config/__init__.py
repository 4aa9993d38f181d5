"""The configuration: one TOML file, checked whole, every problem named at once with its line."""

from dcsync.config.load import find, load, parse
from dcsync.config.model import Account, Config, SecretRef

__all__ = ["Account", "Config", "SecretRef", "find", "load", "parse"]
