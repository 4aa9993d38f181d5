"""The messages between a command and the daemon."""

from __future__ import annotations

import pytest

from dcsync.errors import DcsyncError, every_error
from dcsync.orders.messages import (
    MAX_LINE,
    PROTOCOL,
    Answer,
    Done,
    Failed,
    Hello,
    Message,
    Order,
    Printed,
    Progressed,
    Waiting,
    decode,
    encode,
)


@pytest.mark.parametrize(
    "message",
    [
        Hello(),
        Order(
            name="prune", options={"accounts": ["acme"], "force": True, "part": None}, root="/srv", config={"a": "b"}
        ),
        Waiting(what="mirroring acme"),
        Progressed(event="job_started", values=["acme", "1", "label", 3, 1 << 40]),
        Printed(text="line\nnext \u00fc\n", is_error=False),
        Done(status=14),
        Failed(error="MassChange", message="too many", advice="look"),
    ],
)
def test_a_message_is_a_line_that_is_read_back(message: Message) -> None:
    line = encode(message)

    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{",
        b"\xff\n",
        b"[]\n",
        b'{"kind": "other"}\n',
        b'{"kind": "done"}\n',
        b'{"kind": "done", "status": "0"}\n',
        b'{"kind": "done", "status": 0, "more": 1}\n',
        b'{"kind": "order", "name": "prune", "root": 1}\n',
    ],
)
def test_anything_else_is_no_message(line: bytes) -> None:
    assert decode(line) is None


def test_the_hello_of_another_version_can_be_read() -> None:
    line = b'{"kind": "hello", "protocol": 3, "version": "9.0", "more": [1]}\n'

    assert decode(line) == Hello(protocol=PROTOCOL + 1, version="9.0")


@pytest.mark.parametrize("kind", list(every_error()), ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_it_was_raised(kind: type[DcsyncError]) -> None:
    raised = kind.__new__(kind, "it failed")
    DcsyncError.__init__(raised, "it failed", hint="do this")

    message = decode(encode(Failed.of(raised)))

    assert isinstance(message, Failed)
    error = message.as_error()
    assert type(error) is kind
    assert (error.message, error.advice, error.code, error.exit_status) == (
        "it failed",
        "do this",
        kind.code,
        kind.exit_status,
    )
    assert str(error) == "it failed"


def test_an_error_of_an_unknown_class_is_still_an_error() -> None:
    error = Failed(error="NewError", message="it failed", advice="").as_error()

    assert type(error) is DcsyncError
    assert error.message == "it failed"


def test_a_long_output_goes_in_pieces_that_fit_a_line() -> None:
    answer = Answer(status=3)
    answer.echo("\U0001f600" * 100_000)
    answer.echo("problem", err=True)

    messages = answer.messages()

    assert all(len(encode(message)) < MAX_LINE for message in messages)
    assert messages[-2:] == [Printed(text="problem\n", is_error=True), Done(status=3)]
    printed = "".join(message.text for message in messages if isinstance(message, Printed) and not message.is_error)
    assert printed == "\U0001f600" * 100_000 + "\n"
