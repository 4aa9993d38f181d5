"""Secrets, as the configuration refers to them: `env:NAME`, `file:PATH`, `credential:NAME`, or the secret itself."""

from __future__ import annotations

import codecs
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, SecretStr, WithJsonSchema

from dcsync.core.load_addresses import check_address, has_secret
from dcsync.errors import SecretExposed, SecretUnavailable

#: A BOM, white space and zero-width characters at either end. No secret begins or ends with them.
_AROUND = re.compile(r"^[\s\ufeff\u200b\u2060]+|[\s\ufeff\u200b\u2060]+$")
#: A PEM key has line breaks, and a password may have tabs.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BY_ROOT = (
    "run the command as root: sudo dcsync … runs as the service does, with its credentials (needs the package dbus)"
)

R = TypeVar("R", bound="SecretRef")


class SecretRef:
    """A secret, or a reference to one: `env:NAME`, `file:PATH`, `credential:NAME`. Its `repr` never shows a value."""

    def __init__(self, text: str) -> None:
        kind, colon, rest = text.partition(":")
        self.kind = kind if colon and kind in {"env", "file", "credential"} else "literal"
        self._rest = rest if self.kind != "literal" else text
        if not self._rest:
            message = f"a name is missing after {self.kind}:" if self.kind != "literal" else "the secret is empty"
            raise ValueError(message)
        if self.kind == "credential" and ("/" in rest or rest in {".", ".."}):
            message = "write a name after credential:, not a path"
            raise ValueError(message)

    def __repr__(self) -> str:
        return f"SecretRef({self.describe()!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self.kind, self._rest) == (other.kind, other._rest)

    def __hash__(self) -> int:
        return hash((self.kind, self._rest))

    @property
    def holds_secret(self) -> bool:
        """Whether the configuration file itself contains the secret."""
        return self.kind == "literal"

    @property
    def variable(self) -> str | None:
        """The environment variable that contains the secret, if any."""
        return self._rest if self.kind == "env" else None

    def describe(self) -> str:
        """Return the reference without any secret in it."""
        return "***" if self.kind == "literal" else f"{self.kind}:{self._rest}"

    def resolve(self, environ: Mapping[str, str]) -> SecretStr:
        """Return the secret without what editors and pastes leave around it: a BOM, spaces, line breaks.

        Raises `SecretUnavailable`, also for UTF-16 and control characters, or `SecretExposed` for a file that others
        can read.
        """
        match self.kind:
            case "env":
                value = environ.get(self._rest)
                if value is None:
                    message = f"the environment variable {self._rest} is not set"
                    raise SecretUnavailable(message)
            case "file":
                value = _read_secret(Path(self._rest).expanduser(), private=True)
            case "credential":
                folder = environ.get("CREDENTIALS_DIRECTORY")
                if folder is None:
                    message = (
                        f"credential:{self._rest} needs systemd's LoadCredential= ($CREDENTIALS_DIRECTORY is not set)"
                    )
                    # systemd sets this variable in whatever it starts (systemd.exec(5)).
                    in_unit = "INVOCATION_ID" in environ
                    raise SecretUnavailable(message, hint=_load(self._rest) if in_unit else _BY_ROOT)
                # systemd owns the folder, and only the unit's user can read the files.
                path = Path(folder) / self._rest
                if not path.exists():
                    message = f"the unit has no credential {self._rest}"
                    raise SecretUnavailable(message, hint=_load(self._rest))
                value = _read_secret(path, private=False)
            case _:
                value = self._rest
        value = _AROUND.sub("", value)
        if not value:
            message = f"{self.describe()} is empty"
            raise SecretUnavailable(message)
        if _CONTROL.search(value):
            message = f"{self.describe()} contains a control character"
            raise SecretUnavailable(message, hint="write the secret again, as plain text")
        return SecretStr(value)


def _load(name: str) -> str:
    """Return how the administrator lets systemd pass a secret to all units of dcsync."""
    line = f"LoadCredential={name}:/etc/dcsync/{name}"
    return f"add {line} below [Service] in /etc/dcsync/service.d/secrets.conf, then run: systemctl daemon-reload"


def _read_secret(path: Path, *, private: bool) -> str:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            if private and mode & 0o077:
                message = f"the secret file {path} has mode {mode:04o}, so others can use it"
                raise SecretExposed(message)
            body = file.read(1 << 16)
    except FileNotFoundError:
        message = f"the secret file {path} does not exist"
        hint = f"run (umask 077; cat > {path}), paste the secret, press Enter, then Ctrl-D"
        raise SecretUnavailable(message, hint=hint) from None
    except OSError as error:
        message = f"cannot read the secret file {path}: {error.strerror}"
        raise SecretUnavailable(message) from None
    if is_utf_16(body):
        message = f"the secret file {path} is UTF-16 text. Save it as UTF-8, without a BOM"
        raise SecretUnavailable(message, hint=f"iconv -f utf-16 -t utf-8 {path} > NEW, then chmod 600 NEW")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        message = f"the secret file {path} is not UTF-8 text"
        raise SecretUnavailable(message, hint="save the file as UTF-8") from None


def is_utf_16(body: bytes) -> bool:
    """Return whether a file is UTF-16, as some editors on Windows save it. UTF-8 text has no NUL."""
    return body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body


class ManifestRef(SecretRef):
    """`sqlite`, a database's address, or a reference to one. Treated as a secret: an address may contain a password."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if self.kind == "literal" and text != "sqlite" and not text.startswith(("postgresql://", "postgres://")):
            # Not the value: it may be an address with a password.
            message = 'must be "sqlite", "postgresql://user@host/database", or a reference such as "env:NAME"'
            raise ValueError(message)

    @property
    def is_shared(self) -> bool:
        """Whether it is a database that several hosts share."""
        return self.kind != "literal" or self._rest != "sqlite"

    @property
    def holds_secret(self) -> bool:
        """Whether the configuration file itself contains the database's password."""
        if self.kind != "literal" or not self.is_shared:
            return False
        parts = urlsplit(self._rest)
        return "password=" in parts.query or ":" in parts.netloc.rpartition("@")[0]

    def describe(self) -> str:
        """Return the reference without any secret in it."""
        if self.kind != "literal":
            return super().describe()
        return "postgresql" if self.is_shared else "sqlite"


class ProxyRef(SecretRef):
    """`environment`, `none`, a proxy's address, or a reference to one. Only an address with a password is a secret."""

    def __init__(self, text: str) -> None:
        # Not the value: it may be an address with a password.
        message = 'must be "environment", "none", an address such as "http://proxy.example.com:3128", or "env:NAME"'
        if not text:
            raise ValueError(message)
        super().__init__(text)
        if self.kind == "literal" and not self.is_keyword and not {".", ":"} & set(text):
            raise ValueError(message)

    @property
    def is_keyword(self) -> bool:
        """Whether it names no proxy itself."""
        return self.kind == "literal" and self._rest in {"environment", "none"}

    @property
    def reads_environment(self) -> bool:
        """Whether HTTPS_PROXY and HTTP_PROXY choose the proxy."""
        return self.kind == "literal" and self._rest == "environment"

    @property
    def holds_secret(self) -> bool:
        """Whether the configuration file itself contains the proxy's password."""
        return self.kind == "literal" and "@" in self._rest

    def describe(self) -> str:
        """Return the reference without any secret in it."""
        return super().describe() if self.kind != "literal" or self.holds_secret else self._rest


class LoadRef(SecretRef):
    """The address of a database or folder that tables are loaded into, or a reference to one."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if text.startswith("file://"):
            # The address of a folder. A secret file is file:PATH.
            self.kind, self._rest = "literal", text
        if self.kind == "literal":
            # Raises an error that does not have the address, which may contain a password.
            check_address(text)

    @property
    def holds_secret(self) -> bool:
        """Whether the configuration file itself contains a password or key."""
        return self.kind == "literal" and has_secret(self._rest)

    def describe(self) -> str:
        """Return the reference without any secret in it."""
        return super().describe() if self.kind != "literal" or self.holds_secret else self._rest


def _reader(kind: type[R], must_be: str) -> BeforeValidator:
    """Return the validator of a key that holds such a reference."""

    def read(value: object) -> R:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            # Not the value: it may be the secret.
            raise ValueError(must_be)  # noqa: TRY004 - pydantic collects ValueErrors
        return kind(value)

    return BeforeValidator(read)


_TEXT: Final = WithJsonSchema({"type": "string", "minLength": 1})
ManifestPlace: TypeAlias = Annotated[
    ManifestRef, _reader(ManifestRef, 'must be "sqlite" or the address of a PostgreSQL database'), _TEXT
]
ProxyPlace: TypeAlias = Annotated[
    ProxyRef, _reader(ProxyRef, 'must be "environment", "none", or the address of a proxy'), _TEXT
]
LoadPlace: TypeAlias = Annotated[
    LoadRef, _reader(LoadRef, 'must be a string: "env:NAME", "file:PATH", "credential:NAME", or an address'), _TEXT
]
Secret: TypeAlias = Annotated[
    SecretRef, _reader(SecretRef, 'must be a string: "env:NAME", "file:PATH" or "credential:NAME"'), _TEXT
]


def secret_refs(section: BaseModel) -> Iterator[tuple[tuple[str | int, ...], SecretRef]]:
    """Yield every secret reference in a configuration with the path of its key, as in the file.

    The type of the value decides, so a new secret key needs no entry in any list. Paths use the names in the TOML file
    (`account`, not `accounts`) and count array elements from 0.
    """
    for name, field in type(section).model_fields.items():
        for path, ref in _refs_in(getattr(section, name)):
            yield (field.alias or name, *path), ref


def _refs_in(value: object) -> Iterator[tuple[tuple[str | int, ...], SecretRef]]:
    if isinstance(value, SecretRef):
        yield (), value
    elif isinstance(value, BaseModel):
        yield from secret_refs(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (((str(key), *path), ref) for path, ref in _refs_in(inner))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from (((index, *path), ref) for path, ref in _refs_in(inner))
