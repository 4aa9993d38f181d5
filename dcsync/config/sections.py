"""The sections of the configuration with their keys and defaults. Frozen. Unknown keys are refused."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import Field, field_validator, model_validator

from dcsync.config.fields import Bandwidth, Duration, DurationOrNever, EventName, Section, Size, absolute_path
from dcsync.config.secret_refs import LoadPlace, ManifestPlace, ManifestRef, ProxyPlace, ProxyRef, Secret
from dcsync.config.units import parse_address
from dcsync.core.freshness import ENDS_SOON
from dcsync.core.globs import overlap
from dcsync.core.layout import Layout, parse_layout
from dcsync.core.urls import check_callback_url, is_loopback_url

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ACCOUNT_ID = re.compile(r"(b\.)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_account_id(text: str) -> bool:
    """Return whether a text is the ID of an ACC or BIM 360 account, or of its hub. Other hubs have other IDs."""
    return _ACCOUNT_ID.fullmatch(text) is not None


class Mirror(Section):
    """`[mirror]`: where snapshots are stored, and how extracts are downloaded."""

    root: Path = Field(strict=False)
    layout: str = "dated"
    timezone: str = "UTC"
    latest: Literal["symlink", "hardlinks", "none"] = "symlink"
    strategy: Literal["auto", "files", "zip"] = "auto"
    keep_archive: bool = False
    trust_crc: bool = True
    min_free: Size = 5 << 30

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return absolute_path(value)

    @field_validator("layout")
    @classmethod
    def _valid_layout(cls, value: str) -> str:
        parse_layout(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value == "UTC":  # a minimal Debian has no time zones
            return value
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            known = available_timezones()
            if not known:
                message = f"this system has no time zones but UTC, so {value!r} is unknown: install the package tzdata"
                raise ValueError(message) from None
            close = get_close_matches(value, known, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else ""
            message = f"{value!r} is not a time zone such as UTC or Europe/Berlin{hint}"
            raise ValueError(message) from None
        return value

    @model_validator(mode="after")
    def _has_place_for_latest(self) -> Self:
        if self.latest != "none" and not self.parsed_layout.holds_one_request:
            message = f'the layout {self.layout!r} has no folder for one data request: set latest = "none"'
            raise ValueError(message)
        return self

    @property
    def parsed_layout(self) -> Layout:
        """The layout, parsed."""
        return parse_layout(self.layout)

    @property
    def zone(self) -> tzinfo:
        """The time zone of the dates in folder names."""
        return UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)


class State(Section):
    """`[state]`: what dcsync remembers between runs."""

    dir: Path = Field(default=Path("/var/lib/dcsync"), strict=False)
    manifest: ManifestPlace = Field(default_factory=lambda: ManifestRef("sqlite"))

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return absolute_path(value)


class Poll(Section):
    """`[poll]`: how often the daemon polls."""

    interval: Duration = timedelta(minutes=15)
    jitter: Duration = timedelta(minutes=1)
    stale_after: Duration = timedelta(hours=3)

    @field_validator("interval")
    @classmethod
    def _not_too_often(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=30):
            message = "must be 30s or more: polls and downloads share the rate limit"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _stale_later_than_polled(self) -> Self:
        if self.stale_after < 2 * (self.interval + self.jitter):
            message = "stale_after must be at least two intervals with their jitter, or healthy accounts would be stale"
            raise ValueError(message)
        return self


class Transfer(Section):
    """`[transfer]`: downloads."""

    concurrency: int = Field(default=16, ge=1, le=256)
    bandwidth: Bandwidth = None


class Api(Section):
    """`[api]`: Autodesk's API."""

    base_url: str = "https://developer.api.autodesk.com"
    requests_per_minute: int = Field(default=60, ge=1, le=1000)
    allow_storage_hosts: list[str] = Field(default_factory=list)
    headers: dict[str, str] = Field(default_factory=dict)

    @field_validator("base_url")
    @classmethod
    def _plain_origin(cls, value: str) -> str:
        if "@" in value:
            # Not the value: it may contain a password.
            message = "remove the user name and password, which belong in [auth]"
            raise ValueError(message)
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            message = f"{value!r} is not an address such as https://developer.api.autodesk.com"
            raise ValueError(message)
        if parts.scheme == "http" and not is_loopback_url(value):
            message = f"{value!r} must use https: tokens would be sent unencrypted"
            raise ValueError(message)
        return value.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _harmless(cls, value: dict[str, str]) -> dict[str, str]:
        for name, content in value.items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or not content.isprintable():
                message = f"{name!r} is not a valid header name, or its value has more than one line"
                raise ValueError(message)
            if name.lower() in {"authorization", "cookie", "host", "content-length"}:
                message = f"{name} is set by dcsync itself"
                raise ValueError(message)
        return value


class Network(Section):
    """`[network]`: how dcsync reaches other hosts."""

    #: Administrators expect that a program obeys HTTPS_PROXY. Where it is set, there is often no other way out.
    proxy: ProxyPlace = Field(default_factory=lambda: ProxyRef("environment"))
    ca_file: Path | None = Field(default=None, strict=False)

    @field_validator("ca_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else absolute_path(value)


class Auth(Section):
    """`[auth]`: how dcsync signs in."""

    method: Literal["login", "service-account", "token"] = "login"
    client_id: str | None = None
    client_secret: Secret | None = None
    redirect_uri: str = "http://localhost:8080/callback"
    service_account_id: str | None = None
    key_id: str | None = None
    private_key: Secret | None = None
    access_token: Secret | None = None
    refresh_token: Secret | None = None

    @field_validator("redirect_uri")
    @classmethod
    def _callback_url(cls, value: str) -> str:
        return check_callback_url(value)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {
            "login": ("client_id",),
            "service-account": ("client_id", "client_secret", "service_account_id", "key_id", "private_key"),
            "token": ("client_id",) if self.refresh_token is not None else (),
        }[self.method]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            message = f'method = "{self.method}" needs {", ".join(missing)}'
            raise ValueError(message)
        if self.method == "token" and self.access_token is None and self.refresh_token is None:
            message = 'method = "token" needs refresh_token, or access_token (valid for one hour)'
            raise ValueError(message)
        return self


class Account(Section):
    """An `[[account]]`."""

    name: str
    id: str
    projects: list[str] = Field(default_factory=list)
    requests: list[str] = Field(default_factory=list)
    retired: list[str] = Field(default_factory=list)
    include: list[str] = Field(default_factory=lambda: ["*"])
    exclude: list[str] = Field(default_factory=list)
    start: str = ""

    @field_validator("name")
    @classmethod
    def _one_component(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or value.endswith("."):
            message = f"{value!r} is not a folder name of up to 64 letters, digits, dots, hyphens and underscores"
            raise ValueError(message)
        return value

    @field_validator("id")
    @classmethod
    def _hub_or_account(cls, value: str) -> str:
        if not is_account_id(value):
            message = f"{value!r} is not a hub ID (b.872264f8-2433-498d-8d36-16649ecb13fe) or account ID"
            raise ValueError(message)
        return value

    @field_validator("start", mode="before")
    @classmethod
    def _a_day(cls, value: object) -> object:
        # TOML also has dates without quotes.
        if isinstance(value, date) and not isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, str) and value:
            try:
                date.fromisoformat(value)
            except ValueError:
                message = f"{value!r} is not a date such as 2026-01-31"
                raise ValueError(message) from None
        return value

    @property
    def account_id(self) -> str:
        """The ID without the hub's prefix, in lower case as in the API."""
        return self.id.removeprefix("b.").lower()


class Requests(Section):
    """`[requests]`: what the daemon changes at Autodesk. By default nothing."""

    extend: DurationOrNever = None

    @field_validator("extend")
    @classmethod
    def _long_enough(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value <= ENDS_SOON:
            message = f"must be longer than {ENDS_SOON.days}d: the schedule would soon end again"
            raise ValueError(message)
        return value


class Keep(Section):
    """`[keep]`: the retention policy."""

    last: int = Field(default=0, ge=0)
    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)
    yearly: int = Field(default=0, ge=0)
    proved_windows: bool = False


class Verify(Section):
    """`[verify]`: how the mirror is checked for damage."""

    rate: Bandwidth = 50 << 20
    part_days: int = Field(default=30, ge=1, le=366)
    ignore: list[str] = Field(default_factory=list)

    @field_validator("ignore")
    @classmethod
    def _names_something(cls, value: list[str]) -> list[str]:
        for glob in value:
            if not glob.strip("*/"):
                message = f"{glob!r} would ignore every extra file; name the files, such as '*.txt'"
                raise ValueError(message)
        return value


class History(Section):
    """`[history]`: the row history of tables."""

    tables: list[str] = Field(default_factory=list)
    memory: Size = 1 << 30


class Load(Section):
    """A `[[load]]`: tables in a database of the user."""

    name: str = "main"
    to: LoadPlace
    tables: list[str] = Field(default=["*"], min_length=1)
    accounts: list[str] = Field(default_factory=list)
    requests: list[str] = Field(default_factory=list)
    #: pydantic has a method of the key's name.
    dataset: str = Field(default="dcsync", alias="schema")
    mode: Literal["latest", "history"] = "latest"
    on_new_column: Literal["add", "stop"] = "add"

    @field_validator("name")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or value in {"all", "status"}:
            message = f"{value!r} is not a name of up to 64 letters, digits, dots, hyphens and underscores"
            raise ValueError(f'{message}, other than "status" and "all"')
        return value

    @field_validator("dataset")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", value):
            message = f"{value!r} is not a name of up to 63 letters, digits and underscores that begins with a letter"
            raise ValueError(message)
        return value

    def clashes_with(self, other: Load) -> bool:
        """Say whether both may write the same table."""
        same_place = (self.to, self.dataset.casefold()) == (other.to, other.dataset.casefold())
        return same_place and any(overlap(mine, theirs) for mine in self.tables for theirs in other.tables)


class Http(Section):
    """`[http]`: the daemon's HTTP server."""

    listen: str = ""
    hosts: list[str] = Field(default_factory=list)
    callback_secret: Secret | None = None

    @field_validator("listen")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value:
            parse_address(value)
        return value

    @field_validator("hosts")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", name):
                message = f"{name!r} is not a host name such as mirror.example.com, without a port"
                raise ValueError(message)
        return value

    @property
    def address(self) -> tuple[str, int] | None:
        """Where to listen. None is off. An address without a host means this host only."""
        return parse_address(self.listen) if self.listen else None


class Hook(Section):
    """A `[[hook]]`."""

    on: list[EventName]
    run: list[str] = Field(min_length=1)
    timeout: Duration = timedelta(minutes=10)


class Notify(Section):
    """`[notify]`: messages through apprise."""

    urls: list[Secret] = Field(default_factory=list)
    on: list[EventName] = Field(default=["failure", "alert", "recovered"])


class Heartbeat(Section):
    """`[heartbeat]`: an address that dcsync requests only while no account is stale."""

    url: Secret | None = None


class Metrics(Section):
    """`[metrics]`: metrics for Prometheus in a file, for hosts where nothing scrapes `[http]`."""

    textfile: Path | None = Field(default=None, strict=False)

    @field_validator("textfile")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = absolute_path(value)
        if path.suffix != ".prom":
            message = f"{str(path)!r} must end in .prom: node_exporter ignores other files"
            raise ValueError(message)
        return path


class Log(Section):
    """`[log]`: the log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
