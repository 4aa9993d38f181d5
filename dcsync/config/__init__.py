"""The configuration: one TOML file. All mistakes are reported at once, each with its line."""

from dcsync.config.create import create, create_schema, new_place, refuse_existing, schema_line
from dcsync.config.load import SYSTEM, find, load, parse
from dcsync.config.model import Config
from dcsync.config.renamed import OldName
from dcsync.config.schema import json_schema
from dcsync.config.secret_refs import ManifestRef, SecretRef, secret_refs
from dcsync.config.sections import Account, Auth, is_account_id
from dcsync.config.settings import Setting, Settings, read_settings
from dcsync.config.template import example, fill

__all__ = [
    "SYSTEM",
    "Account",
    "Auth",
    "Config",
    "ManifestRef",
    "OldName",
    "SecretRef",
    "Setting",
    "Settings",
    "create",
    "create_schema",
    "example",
    "fill",
    "find",
    "is_account_id",
    "json_schema",
    "load",
    "new_place",
    "parse",
    "read_settings",
    "refuse_existing",
    "schema_line",
    "secret_refs",
]
