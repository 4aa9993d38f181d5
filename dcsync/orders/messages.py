"""The messages between a command and the daemon: one JSON object on each line.

Both ends are dcsync. Any change of a message, or of the options of an order, raises `PROTOCOL`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, with_config

from dcsync import __version__
from dcsync.errors import DcsyncError, every_error

PROTOCOL = 2
#: The longest line in bytes. The output of a command goes in pieces.
MAX_LINE = 1 << 18
#: The longest piece in characters, each of which takes at most 12 bytes in JSON.
_MAX_PIECE = 16_384

_EXACT = ConfigDict(extra="forbid", strict=True)


@with_config(ConfigDict(extra="ignore"))
@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of the daemon. Every version has these fields, and may add others."""

    kind: Literal["hello"] = "hello"
    protocol: int = PROTOCOL
    version: str = __version__


@with_config(_EXACT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The only message of a command. `config` has a fingerprint of each section of its configuration that matters."""

    kind: Literal["order"] = "order"
    name: str
    options: dict[str, JsonValue] = field(default_factory=dict)
    root: str
    config: dict[str, str] = field(default_factory=dict)


@with_config(_EXACT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The daemon does something else first. `what` completes "the daemon is …"."""

    kind: Literal["waiting"] = "waiting"
    what: str


@with_config(_EXACT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """An event of a port for progress: the name of its method, and the arguments."""

    kind: Literal["progress"] = "progress"
    event: str
    values: list[str | int]


@with_config(_EXACT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A piece of the command's output, for stdout or stderr."""

    kind: Literal["printed"] = "printed"
    text: str
    is_error: bool


@with_config(_EXACT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The last message: the exit status of the command."""

    kind: Literal["done"] = "done"
    status: int


@with_config(_EXACT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The last message of an order that failed: the class of the error, its message, and what to do."""

    kind: Literal["failed"] = "failed"
    error: str
    message: str
    advice: str

    @classmethod
    def of(cls, error: DcsyncError) -> Failed:
        """Return the message for an error."""
        return cls(error=type(error).__name__, message=error.message, advice=error.advice)

    def as_error(self) -> DcsyncError:
        """Return the error as the daemon raised it: its code, message, hint and exit status."""
        kind = next((kind for kind in every_error() if kind.__name__ == self.error), DcsyncError)
        error = kind.__new__(kind, self.message)
        DcsyncError.__init__(error, self.message, hint=self.advice)
        return error


Message: TypeAlias = Annotated[
    Hello | Order | Waiting | Progressed | Printed | Done | Failed, Field(discriminator="kind")
]
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)

M = TypeVar("M", Hello, Order, Waiting, Progressed, Printed, Done, Failed)


def encode(message: Message) -> bytes:
    """Return the line of a message."""
    return _MESSAGES.dump_json(message) + b"\n"


def decode(line: bytes) -> Message | None:
    """Return the message of a line, or None for a line that is not one."""
    try:
        return _MESSAGES.validate_json(line)
    except ValidationError:
        return None


@dataclass(slots=True)
class Answer:
    """The output of a command, and its exit status."""

    status: int = 0
    lines: list[Printed] = field(default_factory=list)

    def echo(self, text: str, *, err: bool = False) -> None:
        """Add a line to stdout or stderr."""
        self.lines.append(Printed(text=f"{text}\n", is_error=err))

    def messages(self) -> list[Message]:
        """Return the messages that carry the answer."""
        pieces: list[Message] = [
            Printed(text=line.text[start : start + _MAX_PIECE], is_error=line.is_error)
            for line in self.lines
            for start in range(0, len(line.text), _MAX_PIECE)
        ]
        return [*pieces, Done(status=self.status)]
