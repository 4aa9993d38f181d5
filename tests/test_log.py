"""The log: one stream, one event a line, and no secret in any shape that we know of."""

from __future__ import annotations

import ast
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

import dcsync
from dcsync.auth.token_store import TokenPair
from dcsync.cli.group import _COMMANDS
from dcsync.cli.hooks import rerun_command
from dcsync.errors import ApiUnreachable, ExitStatus
from dcsync.log import configure, redact

#: What must appear nowhere; in letters that survive every escaping.
CANARY = "SECRETcanary0123456789abcdef"
HOST = "https://bucket.s3.amazonaws.com"
SIGV2 = (
    f"{HOST}/k%20ey/a.csv?AWSAccessKeyId={CANARY}&Expires=1&Signature={CANARY}%2B%3D&x-amz-security-token={CANARY}%2F"
)
SIGV4 = f"{HOST}/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={CANARY}%2F1&X-Amz-Signature={CANARY}"
JWT = f"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0{CANARY}.{CANARY}"
SHAPES = {
    "SigV2": SIGV2,
    "SigV4": SIGV4,
    "in upper case": SIGV2.upper(),
    "in quotes": f'GET "{SIGV2}" failed',
    "in an address's repr": f"URL('{SIGV4}')",
    "in angle brackets": f"<{SIGV2}>",
    "with a port": SIGV2.replace("https://bucket.s3.amazonaws.com", "http://127.0.0.1:9000"),
    "twice": f"{SIGV2} then {SIGV4}",
    "query without an address": SIGV2.partition("?")[2],
    "path and query": SIGV2.removeprefix(HOST),
    "bearer": f"Bearer {CANARY}",
    "bearer in lower case": f"authorization: bearer {CANARY}",
    "basic": f"Authorization: Basic {CANARY}==",
    "headers": repr({"Authorization": f"Bearer {CANARY}", "X-Amz-Security-Token": CANARY}),
    "raw header": f"GET / HTTP/1.1\r\nAuthorization: Bearer {CANARY}\r\nHost: x\r\n",
    "JWT": JWT,
    "JWT in a sentence": f"the token {JWT}, which expired",
    "form": f"grant_type=refresh_token&refresh_token={CANARY}&client_id=x",
    "JSON": json.dumps({"access_token": CANARY, "refresh_token": CANARY, "expires_in": 1}),
    "JSON over lines": json.dumps({"access_token": CANARY}, indent=1),
    "client secret": f"client_secret = '{CANARY}'",
    "assertion": f"assertion={CANARY}",
    "code": f"http://localhost:8080/callback?code={CANARY}",
    "password": f"password: {CANARY}",
}


class Stream(io.StringIO):
    """A stream that a person reads, or not."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def lines(self) -> list[str]:
        return self.getvalue().removesuffix("\n").split("\n") if self.getvalue() else []

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Put the process's log back: it is one for all tests."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    names = ("aiohttp", "asyncio", "sqlalchemy", "aiosqlite", "stamina", "alembic", "tenacity")
    levels = {name: logging.getLogger(name).level for name in names}
    before = structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)
    structlog.configure(**before)


def make_stream(form: str = "json", level: str = "info", *, terminal: bool = False) -> Stream:
    stream = Stream(terminal=terminal)
    configure(level, form, stream=stream)
    return stream


both_forms = pytest.mark.parametrize("form", ["json", "console"])


# --- redaction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HOST}/a/b.csv?Signature=x&y=z failed", f"{HOST}/a/b.csv?… failed"),
        (f"{HOST}/a/b.csv failed", f"{HOST}/a/b.csv failed"),
        ("Bearer abcdef123456 refused", "Bearer … refused"),
        ("x eyJhbGciOi.eyJzdWIiOi.abc-_1 y", "x … y"),
        ('{"refresh_token": "abc", "expires_in": 3599}', '{"refresh_token": "…", "expires_in": 3599}'),
        ("refresh_token=abc&scope=data:read", "refresh_token=…&scope=data:read"),
        ("the refresh token was not used", "the refresh token was not used"),
        ("basic of the bearer is fine", "basic of the bearer is fine"),
        ("T-CLIENT: status code 401", "T-CLIENT: status code 401"),
        ("admin_users.csv 120 bytes", "admin_users.csv 120 bytes"),
    ],
)
def test_only_the_secret_is_taken_out_of_a_text(text: str, expected: str) -> None:
    assert redact(text) == expected


@given(st.text(max_size=60))
def test_what_was_redacted_stays_as_it_is(text: str) -> None:
    once = redact(f"{text} {SIGV2} {text}")

    assert CANARY not in once
    assert redact(once) == once


@both_forms
@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_of_a_secret_comes_through_by_any_way(form: str, shape: str) -> None:
    secret = SHAPES[shape]
    stream = make_stream(form, "debug")
    log, library = structlog.get_logger("dcsync.test"), logging.getLogger("some.library")

    log.info(secret)
    log.info("value", detail=secret, nested={"a": [secret, {"b": (secret, {secret})}]})
    log.info("error", error=ApiUnreachable(f"failed: {secret}"))
    log.bind(bound=secret).warning("bound")
    library.warning("argument %s and %r", secret, [secret])
    try:
        raise ValueError(secret)
    except ValueError as cause:
        try:
            raise ApiUnreachable(f"again {secret}") from cause
        except ApiUnreachable:
            log.exception("with a traceback")
            library.exception("with a traceback of %s", secret)

    written = stream.getvalue()
    assert written.count("with a traceback") == 2
    assert CANARY.lower() not in written.lower()


@both_forms
@pytest.mark.parametrize(
    "key",
    ["token", "access_token", "refresh_token", "client_secret", "Authorization", "assertion", "signature", "password"],
)
def test_a_key_that_names_a_secret_hides_whatever_it_holds(form: str, key: str) -> None:
    stream = make_stream(form)

    structlog.get_logger().info("event", **{key: CANARY}, inner={key: [CANARY]}, headers={key.upper(): CANARY})

    assert CANARY not in stream.getvalue()
    assert stream.getvalue().count("***") == 3


#: Text of ours that is a pair of a key and a secret: printed, written or signed, never logged.
PAIRS = (
    "AWSAccessKeyId=",
    "GET\n",
    "[mirror]",
    "# The configuration of the last run of the demo",
    "  code: ",
    "token: ",
)


def our_own_words() -> Iterator[str]:
    """Yield every text that our code has in it but for docstrings, with 0 for what is put in."""
    for path in sorted(Path(dcsync.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        within |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
                yield node.value


def test_our_own_words_come_through_whole() -> None:
    """A sentence that ends in `token:` loses the word behind it: such a message is put otherwise."""
    words = [text for text in our_own_words() if not text.startswith(PAIRS)]

    assert len(words) > 1000
    assert [text for text in words if redact(text) != text] == []


def test_facts_about_a_token_and_the_lack_of_one_are_shown() -> None:
    stream = make_stream()

    structlog.get_logger().info("status", token_method="token", token_expires_at="2026-11-22", refresh_token=None)

    (event,) = stream.events()
    assert (event["token_method"], event["token_expires_at"]) == ("token", "2026-11-22")
    assert "refresh_token" not in event


def test_a_traceback_shows_no_local_variable() -> None:
    stream = make_stream("console", terminal=True)
    hidden = f"local {CANARY}"

    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger().exception("failed")

    assert "ValueError" in stream.getvalue()
    assert CANARY not in stream.getvalue()


# --- forms ------------------------------------------------------------------------------------------------------------

ODD_VALUES = [
    "a\nb",
    "a\r\nlevel=error",
    "\x1b[2J\x1b]0;title\x07",
    "tab\there",
    "\u202e\u2028x",
    "\x00\x7f\x9b1m",
    "ü ✓",
]


@pytest.mark.parametrize("value", ODD_VALUES)
def test_one_event_is_one_line_on_the_console_whatever_is_in_it(value: str) -> None:
    stream = make_stream("console")

    structlog.get_logger().info(f"event {value}", name=value, names=[value], inner={"k": value})
    structlog.get_logger().info("next")

    first, second = stream.getvalue().removesuffix("\n").split("\n")
    assert second.rstrip().endswith("next")
    assert first.isprintable()
    assert len(first.splitlines()) == 1


@pytest.mark.parametrize("value", ODD_VALUES)
def test_each_line_in_json_form_is_one_object_with_the_values_as_they_were(value: str) -> None:
    stream = make_stream("json")

    structlog.get_logger().info("event", name=value, count=3, sizes=[1, 2])
    logging.getLogger("library").warning("said %s", value)

    ours, theirs = stream.events()
    assert (ours["event"], ours["name"], ours["count"], ours["sizes"]) == ("event", value, 3, [1, 2])
    assert (theirs["event"], theirs["level"]) == (f"said {value}", "warning")
    assert ours["timestamp"].endswith("Z")
    assert ours["level"] == "info"


@pytest.mark.parametrize(
    "sign", ["\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\ufeff", "\ud800", "\U000e0001"]
)
def test_nothing_in_json_form_breaks_a_line_or_is_obeyed_by_a_terminal(sign: str) -> None:
    stream = make_stream("json")

    structlog.get_logger().info("event", name=f"é {sign}.csv", folder={sign: 1})

    text = stream.getvalue()
    assert text.removesuffix("\n").isprintable()
    assert "é" in text
    assert json.loads(text)["name"] == f"é {sign}.csv"


def test_a_traceback_in_json_form_stays_on_its_line() -> None:
    stream = make_stream("json")

    try:
        raise ValueError("first\nsecond")
    except ValueError:
        structlog.get_logger().exception("failed")

    (event,) = stream.events()
    assert event["exception"].startswith("Traceback (most recent call last):\n")
    assert event["exception"].endswith("ValueError: first\nsecond")


@pytest.mark.parametrize(("terminal", "is_json"), [(True, False), (False, True)])
def test_auto_is_for_people_on_a_terminal_and_json_elsewhere(terminal: bool, is_json: bool) -> None:
    stream = make_stream("auto", terminal=terminal)

    structlog.get_logger().info("event")

    assert stream.getvalue().startswith("{") == is_json


# --- values ----------------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    ONE = "one"


@dataclass(frozen=True)
class Pair:
    name: str
    at: datetime


MOMENT = datetime(2026, 11, 22, 14, 0, 0, 500000, tzinfo=timezone(timedelta(hours=2)))
#: What each kind of value is in JSON, and on the console.
VALUES: dict[str, tuple[object, object, str]] = {
    "text": ("a b", "a b", "a b"),
    "a number": (7, 7, "7"),
    "a fraction": (0.5, 0.5, "0.5"),
    "a flag": (True, True, "true"),
    "a time": (MOMENT, "2026-11-22T12:00:00.500000Z", "2026-11-22T12:00:00.500000Z"),
    "a span": (timedelta(minutes=1), 60.0, "60.0"),
    "an enum": (Colour.RED, "red", "red"),
    "an enum of texts": (Word.ONE, "one", "one"),
    "an enum of numbers": (ExitStatus.INCOMPLETE, 3, "3"),
    "a path": (Path("a/b"), "a/b", "a/b"),
    "an error": (ApiUnreachable("no answer"), "ApiUnreachable: no answer", "ApiUnreachable: no answer"),
    "a foreign error": (ValueError("x"), "ValueError: x", "ValueError: x"),
    "bytes": (b"\xff.csv", "\\xff.csv", "\\xff.csv"),
    "a tuple": (("a", Path("b")), ["a", "b"], '["a", "b"]'),
    "a list of times": ([MOMENT], ["2026-11-22T12:00:00.500000Z"], '["2026-11-22T12:00:00.500000Z"]'),
    "a mapping": ({"a": None, "b": Colour.RED}, {"a": None, "b": "red"}, '{"a": null, "b": "red"}'),
    "a dataclass": (
        Pair("a", MOMENT),
        {"name": "a", "at": "2026-11-22T12:00:00.500000Z"},
        '{"name": "a", "at": "2026-11-22T12:00:00.500000Z"}',
    ),
}


@pytest.mark.parametrize("kind", VALUES)
def test_each_value_is_plain_and_none_looks_like_python(kind: str) -> None:
    value, in_json, on_console = VALUES[kind]

    stream = make_stream("json")
    structlog.get_logger().info("event", field=value)
    console = make_stream("console")
    structlog.get_logger().info("event", field=value)

    assert stream.events()[0]["field"] == in_json
    # A text with spaces is quoted.
    shown = f"'{on_console}'" if set(on_console) & {" ", '"'} else on_console
    assert console.getvalue().rstrip().endswith(f"field={shown}")


@both_forms
def test_a_field_without_a_value_is_left_out(form: str) -> None:
    stream = make_stream(form)

    structlog.get_logger().info("event", field=None, other=1)

    assert "field" not in stream.getvalue()
    assert "other" in stream.getvalue()


def test_no_value_is_made_of_the_words_of_python() -> None:
    """`repr()` or `!r` of a value shows quotes and escapes, and the class of an object."""
    levels, found = {"debug", "info", "warning", "error", "exception", "critical"}, []
    calls = 0
    for path in sorted(Path(dcsync.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in levels):
                continue
            calls += 1
            for part in (part for keyword in node.keywords for part in ast.walk(keyword.value)):
                is_repr = isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "repr"
                if is_repr or (isinstance(part, ast.FormattedValue) and part.conversion == ord("r")):
                    found.append(f"{path.name}: {ast.unparse(node)}")

    assert calls > 100
    assert found == []


# --- told once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "is_told"), [("sync", False), ("demo", False), ("verify", True), (None, True)])
def test_what_the_result_of_a_command_tells_is_not_in_its_log(command: str | None, is_told: bool) -> None:
    stream = Stream()
    configure("debug", "json", stream=stream, command=command)

    structlog.get_logger().warning("job failed", job="1", in_result="sync demo")
    structlog.get_logger().warning("another")

    events = [event["event"] for event in stream.events()]
    assert events == (["job failed", "another"] if is_told else ["another"])
    assert "in_result" not in stream.getvalue()


def test_the_results_that_are_named_are_those_of_commands() -> None:
    """A name that is none would leave an event out of no log."""
    commands = {*_COMMANDS, rerun_command.name}
    named: set[str] = set()
    for path in Path(dcsync.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            values = [node.value] if isinstance(node, ast.keyword) and node.arg == "in_result" else []
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                values += [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "in_result"]
            for value in values:
                for part in ast.walk(value):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        named.update(part.value.split())

    assert named == {"sync", "demo", "verify", "prune", "rebuild", "rerun", "notify", "load"}
    assert named <= commands


# --- streams and levels -----------------------------------------------------------------------------------------------


def test_both_kinds_of_loggers_write_to_the_one_stream_in_order() -> None:
    stream = make_stream()

    structlog.get_logger().info("first")
    logging.getLogger("library").info("second")
    structlog.get_logger().warning("third")

    assert [event["event"] for event in stream.events()] == ["first", "second", "third"]


def test_configuring_again_moves_the_log_and_doubles_nothing() -> None:
    first = make_stream()
    second = make_stream()

    structlog.get_logger().info("event")
    logging.getLogger("library").info("event")

    assert first.getvalue() == ""
    assert len(second.events()) == 2


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_below_the_level_is_not_said(level: str, heard: list[str]) -> None:
    stream = make_stream(level=level)

    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), name)("ours")
        getattr(logging.getLogger("library"), name)("theirs")

    events = [(event["event"], event["level"]) for event in stream.events()]
    assert events == [(whose, name) for name in heard for whose in ("ours", "theirs")]


@pytest.mark.parametrize("name", ["aiohttp.client", "asyncio", "sqlalchemy.engine", "aiosqlite", "alembic.runtime"])
def test_libraries_that_show_whole_requests_are_heard_from_warning_on(name: str) -> None:
    stream = make_stream(level="debug")

    logging.getLogger(name).debug("GET")
    logging.getLogger(name).info("GET")
    logging.getLogger(name).warning("trouble")

    assert [event["event"] for event in stream.events()] == ["trouble"]


@pytest.mark.parametrize(
    "value",
    [
        URL("https://h.example/k?Signature=S3CRET"),
        b"https://h.example/k?Signature=S3CRET",
        Path("data/https://h.example/k?Signature=S3CRET"),
        {"https://h.example/k?Signature=S3CRET": 1},
        TokenPair(refresh_token="S3CRET", access_token="S3CRET"),
        '{\\"refresh_token\\": \\"S3CRET\\"}',
        "private_key=S3CRET",
        "client_assertion=S3CRET",
        "code_verifier: S3CRET",
        "sig=S3CRET",
        "https://user:S3CRET@host/",
        "Authorization: Token S3CRET",
        'password="a, S3CRET"',
        "password=a,S3CRET",
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["value", "_value"])
def test_secrets_of_any_shape_and_type_are_taken_out(value: object, key: str) -> None:
    stream = io.StringIO()
    configure("info", "json", stream=stream)

    structlog.get_logger("test").info("x", **{key: value})

    assert "S3CRET" not in stream.getvalue()
    assert "x" in json.loads(stream.getvalue())["event"]


# --- the journal ------------------------------------------------------------------------------------------------------


def test_in_the_journal_each_line_has_its_priority() -> None:
    stream = Stream()
    configure("debug", "json", stream=stream, for_journal=True)
    log = structlog.get_logger("test")

    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    logging.getLogger("other").critical("e")

    found = [(line[:3], json.loads(line[3:])["event"]) for line in stream.lines()]
    assert found == [("<7>", "a"), ("<6>", "b"), ("<4>", "c"), ("<3>", "d"), ("<2>", "e")]


def test_in_the_journal_the_lines_of_a_traceback_have_its_priority() -> None:
    stream = Stream()
    configure("info", "console", stream=stream, for_journal=True)

    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        structlog.get_logger("test").exception("failed")

    assert len(stream.lines()) > 3
    assert {line[:3] for line in stream.lines()} == {"<3>"}
