"""The JSON schema of the configuration. Editors that know it complete and check `config.toml`.

The types come from the model, the descriptions and defaults from the commented example.
"""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Final, cast

from pydantic import BaseModel

from dcsync.config.model import Config
from dcsync.config.reference import reference
from dcsync.config.template import example
from dcsync.core.model import Json

#: The version that editors for TOML understand.
_DIALECT: Final = "http://json-schema.org/draft-07/schema#"
_Schema = dict[str, Json]


def json_schema() -> _Schema:
    """Return the schema, without references: each section is where it is used."""
    schema = cast("_Schema", Config.model_json_schema(by_alias=True, mode="validation"))
    definitions = cast("dict[str, _Schema]", schema.pop("$defs"))
    inlined = cast("_Schema", _plain(schema, definitions))
    for name, section in reference().items():
        of_section = cast("dict[str, _Schema]", inlined["properties"])[name]
        of_section["description"] = section.comment
        keys = cast("dict[str, _Schema]", _table(of_section)["properties"])
        for key, described in section.keys.items():
            keys[key]["description"] = described.comment
            if (default := default_of(name, key)) is not None:
                keys[key]["default"] = default
    return {"$schema": _DIALECT, **inlined, "title": "The configuration of dcsync"}


def default_of(section: str, key: str) -> Json:
    """Return the default of a key as the file would show it, or None if it has none.

    Raises `KeyError` for an unknown key.
    """
    fields = _models()[section].model_fields
    described = reference()[section].keys[key]
    field = next((field for field in fields.values() if field.alias == key), None) or fields[key]
    if field.is_required():
        return None
    if field.get_default(call_default_factory=True) is not None:
        return described.value
    # A value such as "unlimited", which means None.
    shown = getattr(getattr(_example(), section, None), key, None)
    return described.value if described.is_active and shown is None else None


@cache
def _example() -> Config:
    return Config.model_validate(tomllib.loads(example()))


@cache
def _models() -> dict[str, type[BaseModel]]:
    """Return the model of each section by the section's name in the file."""
    models = {}
    for name, field in Config.model_fields.items():
        arguments = getattr(field.annotation, "__args__", ())
        models[field.alias or name] = cast("type[BaseModel]", arguments[0] if arguments else field.annotation)
    return models


def _table(section: _Schema) -> _Schema:
    return cast("_Schema", section["items"]) if section.get("type") == "array" else section


def _plain(node: Json, definitions: dict[str, _Schema]) -> Json:
    """Return a schema with its references filled in, and without titles, Python's defaults, and null."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return _plain(definitions[str(node["$ref"]).rpartition("/")[2]], definitions)
    options = node.get("anyOf")
    if isinstance(options, list):
        (only,) = [option for option in options if option != {"type": "null"}]
        return _plain(only, definitions)
    plain: _Schema = {}
    for key, value in node.items():
        if key == "properties":
            plain[key] = {name: _plain(inner, definitions) for name, inner in cast("_Schema", value).items()}
        elif key not in {"title", "default", "description"}:
            plain[key] = _plain(value, definitions)
    return plain
