"""Types of configuration values that more than one section uses."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue

from dcsync.config.units import parse_duration, parse_rate, parse_size


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else _refuse(value, 'a duration such as "15m"')


def _duration_or_never(value: object) -> object:
    if value is None or value == "never":
        return None
    expected = '"never" or a duration such as "365d"'
    try:
        return parse_duration(value) if isinstance(value, str) else _refuse(value, expected)
    except ValueError:
        return _refuse(value, expected)


def _size(value: object) -> object:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return parse_size(value)
    return _refuse(value, 'a size such as "5 GiB"')


def _bandwidth(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, str | int) and not isinstance(value, bool):
        return parse_rate(value)
    return _refuse(value, '"unlimited" or a rate such as "20 MiB/s"')


def _refuse(value: object, expected: str) -> object:
    message = f"{value!r} is not {expected}"
    raise ValueError(message)


EventName: TypeAlias = Literal["snapshot", "failure", "alert", "recovered"]
#: What editors check while you type. The validators are stricter in what they accept, and say more.
_DURATION: Final[JsonSchemaValue] = {"type": "string", "examples": ["90s", "15m", "1h30m", "1d"]}
_DURATION_OR_NEVER: Final[JsonSchemaValue] = {"type": "string", "examples": ["never", "365d"]}
_SIZE: Final[JsonSchemaValue] = {"type": ["string", "integer"], "minimum": 0, "examples": ["500 MB", "5 GiB"]}
_RATE: Final[JsonSchemaValue] = {"type": ["string", "integer"], "minimum": 1, "examples": ["unlimited", "20 MiB/s"]}
Duration: TypeAlias = Annotated[timedelta, BeforeValidator(_duration), WithJsonSchema(_DURATION)]
DurationOrNever: TypeAlias = Annotated[
    timedelta | None, BeforeValidator(_duration_or_never), WithJsonSchema(_DURATION_OR_NEVER)
]
Size: TypeAlias = Annotated[int, BeforeValidator(_size), WithJsonSchema(_SIZE)]
Bandwidth: TypeAlias = Annotated[int | None, BeforeValidator(_bandwidth), WithJsonSchema(_RATE)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, and no input in errors, because it may be a secret."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True, strict=True
    )


def absolute_path(value: Path) -> Path:
    """Return a path with `~` expanded and `..` removed. Raises `ValueError` for a relative one."""
    expanded = value.expanduser()
    if not expanded.is_absolute():
        message = f"{str(value)!r} is not an absolute path"
        raise ValueError(message)
    # Computed without access to the disk: `a/../b` must not hide a root inside the state folder.
    return Path(os.path.normpath(expanded))
