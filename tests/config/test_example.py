"""config.example.toml: it loads, documents every key under its section, and says the defaults as they are."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dcsync.config import Config, load
from dcsync.config.sections import Load

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
#: Active keys that say something else than the default: what only the operator can know.
NOT_DEFAULT = {("auth", "client_id"), ("auth", "client_secret")}
_HEADER = re.compile(r"(?:# )?\[\[?([a-z]+)\]\]?")
_KEY = re.compile(r"(# )?([a-z_]+) = (.+)")


def text() -> str:
    return EXAMPLE.read_text(encoding="utf-8")


def entries() -> dict[tuple[str, str], bool]:
    """Return every key by section and name, and whether it is active; a key that comes twice is a mistake."""
    found: dict[tuple[str, str], bool] = {}
    section = ""
    for line in text().splitlines():
        header, key = _HEADER.fullmatch(line), _KEY.fullmatch(line)
        if header is not None:
            section = header[1]
        elif key is not None:
            assert (section, key[2]) not in found, line
            found[section, key[2]] = key[1] is None
    return found


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections of the model by the name they have in the file."""
    for name, field in Config.model_fields.items():
        yield field.alias or name, section_of(field.annotation)


def section_of(annotation: Any) -> type[BaseModel]:
    """Return the one model in an annotation such as `Mirror` or `list[Account]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    assert get_origin(annotation) in {list, UnionType}, annotation
    (model,) = [inner for inner in get_args(annotation) if inner is not type(None)]
    return section_of(model)


def fields() -> dict[tuple[str, str], FieldInfo]:
    """Return every key of the model by section and name."""
    return {
        (section, field.alias or name): field
        for section, model in sections()
        for name, field in model.model_fields.items()
    }


def test_the_package_has_the_same_file_for_init() -> None:
    packaged = resources.files("dcsync.config").joinpath("example.toml")

    assert packaged.read_bytes() == EXAMPLE.read_bytes()


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_it_loads_as_it_is(tmp_path: Path, mode: int) -> None:
    copy = tmp_path / "config.toml"
    shutil.copyfile(EXAMPLE, copy)
    copy.chmod(mode)

    config = load(copy, environ={})

    assert config.mirror.root == Path("/srv/dcsync")
    assert config.accounts[0].account_id == "872264f8-2433-498d-8d36-16649ecb13fe"
    assert config.auth.method == "login"


def test_every_key_of_every_section_is_there_and_no_other() -> None:
    assert len(fields()) > 40
    assert entries().keys() == fields().keys()


def test_every_key_that_must_be_given_is_active_or_of_a_section_that_is_left_out() -> None:
    required = {key for key, field in fields().items() if field.is_required()}

    assert {key for key in required if not entries()[key]} == {("load", "to"), ("hook", "on"), ("hook", "run")}


def test_every_active_key_says_its_default() -> None:
    config, known = load(EXAMPLE, environ={}), fields()
    values: dict[str, Any] = {field.alias or name: getattr(config, name) for name, field in Config.model_fields.items()}

    differing = set()
    for (section, name), active in entries().items():
        field = known[section, name]
        if active and not field.is_required():
            value = values[section][0] if isinstance(values[section], list) else values[section]
            if getattr(value, name) != field.get_default(call_default_factory=True):
                differing.add((section, name))

    assert differing == NOT_DEFAULT


def test_a_key_that_is_only_shown_has_no_default_or_says_it() -> None:
    uncommented = "\n".join(
        line.removeprefix("# ") if _HEADER.fullmatch(line) or _KEY.fullmatch(line) else line
        for line in text().splitlines()
    )
    config = Config.model_validate(tomllib.loads(uncommented))
    shown = {key for key, active in entries().items() if not active}

    assert shown == {
        ("auth", "access_token"),
        ("auth", "service_account_id"),
        ("auth", "key_id"),
        ("auth", "private_key"),
        ("auth", "refresh_token"),
        ("heartbeat", "url"),
        ("hook", "on"),
        ("hook", "run"),
        ("hook", "timeout"),
        ("http", "callback_secret"),
        ("load", "accounts"),
        ("load", "mode"),
        ("load", "name"),
        ("load", "on_new_column"),
        ("load", "requests"),
        ("load", "schema"),
        ("load", "tables"),
        ("load", "to"),
        ("metrics", "textfile"),
        ("network", "ca_file"),
    }
    repeated = {"hook", "load"}
    assert all(field.default is None for key, field in fields().items() if key in shown and key[0] not in repeated)
    assert config.hooks[0].timeout == fields()["hook", "timeout"].default
    assert config.loads[0] == Load(to=config.loads[0].to)
    assert config.auth.private_key is not None


def test_every_key_and_section_has_a_comment_above_it() -> None:
    lines = text().splitlines()

    bare = [
        line
        for above, line in pairwise(lines)
        if (_HEADER.fullmatch(line) or _KEY.fullmatch(line)) and not above.startswith("# ")
    ]

    assert bare == []


def test_it_holds_no_secret_and_no_long_line() -> None:
    config = load(EXAMPLE, environ={})

    assert "***" not in repr(config)
    assert [line for line in text().splitlines() if len(line) > 120] == []
