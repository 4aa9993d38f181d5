"""The configuration: one TOML file. All mistakes are reported at once, each with its line."""

from dcsync.config.create import create, new_place, refuse_existing
from dcsync.config.load import SYSTEM, find, load, parse
from dcsync.config.model import Config
from dcsync.config.renamed import OldName
from dcsync.config.secret_refs import ManifestRef, SecretRef, secret_refs
from dcsync.config.sections import Account, Auth
from dcsync.config.template import example, fill

__all__ = [
    "SYSTEM",
    "Account",
    "Auth",
    "Config",
    "ManifestRef",
    "OldName",
    "SecretRef",
    "create",
    "example",
    "fill",
    "find",
    "load",
    "new_place",
    "parse",
    "refuse_existing",
    "secret_refs",
]
