"""The whole configuration, and the rules between its sections."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Self

from pydantic import Field, PrivateAttr, model_validator

from dcsync.config.fields import Section
from dcsync.config.renamed import OldName
from dcsync.config.sections import (
    Account,
    Api,
    Auth,
    Heartbeat,
    History,
    Hook,
    Http,
    Keep,
    Load,
    Log,
    Metrics,
    Mirror,
    Network,
    Notify,
    Poll,
    Requests,
    State,
    Transfer,
    Verify,
)


class Config(Section):
    """A complete configuration. `[[account]]`, `[[load]]` and `[[hook]]` are arrays of tables."""

    mirror: Mirror
    state: State = Field(default_factory=State)
    poll: Poll = Field(default_factory=Poll)
    transfer: Transfer = Field(default_factory=Transfer)
    api: Api = Field(default_factory=Api)
    network: Network = Field(default_factory=Network)
    auth: Auth
    #: May be empty before the first `dcsync accounts`. `load` decides whether an account is needed.
    accounts: list[Account] = Field(alias="account", default_factory=list)
    requests: Requests = Field(default_factory=Requests)
    keep: Keep = Field(default_factory=Keep)
    verify: Verify = Field(default_factory=Verify)
    history: History = Field(default_factory=History)
    loads: list[Load] = Field(alias="load", default_factory=list)
    http: Http = Field(default_factory=Http)
    hooks: list[Hook] = Field(alias="hook", default_factory=list)
    notify: Notify = Field(default_factory=Notify)
    heartbeat: Heartbeat = Field(default_factory=Heartbeat)
    metrics: Metrics = Field(default_factory=Metrics)
    log: Log = Field(default_factory=Log)

    _old_names: tuple[OldName, ...] = PrivateAttr(default=())

    @property
    def old_names(self) -> tuple[OldName, ...]:
        """Names in the file that only this version still accepts. The caller shows them."""
        return self._old_names

    def with_old_names(self, old_names: tuple[OldName, ...]) -> Self:
        """Return the same configuration with the old names that its file used."""
        copy = self.model_copy()
        copy._old_names = old_names  # noqa: SLF001 - a copy of this object
        return copy

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [account.name.casefold() for account in self.accounts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"account: two accounts have the name {twice[0]!r}; each needs its own folder"
            raise ValueError(message)
        root, state = self.mirror.root, self.state.dir
        if root == state or state in root.parents:
            message = "mirror.root: must not be state.dir or a folder in it: readers of the mirror would see it"
            raise ValueError(message)
        if root in state.parents and not state.relative_to(root).parts[0].startswith("."):
            message = "state.dir: inside mirror.root, the folder's name must begin with a dot"
            raise ValueError(message)
        self._check_loads()
        return self

    def _check_loads(self) -> None:
        accounts = {account.name for account in self.accounts}
        for index, load in enumerate(self.loads):
            before = self.loads[:index]
            if any(load.name.casefold() == other.name.casefold() for other in before):
                message = f"load: two loads have the name {load.name!r}; give each [[load]] a name of its own"
                raise ValueError(message)
            other = next(filter(load.clashes_with, before), None)
            if other is not None:
                what = f"load: {other.name!r} and {load.name!r} may write the same tables of {load.dataset!r}"
                message = f"{what}; give one of them another schema, or other tables"
                raise ValueError(message)
            unknown = next((name for name in load.accounts if name not in accounts), None)
            if unknown is not None:
                message = f"load: {load.name!r} names the account {unknown!r}, which is not in the configuration"
                raise ValueError(message)
            if load.mode == "history" and not self.history.tables:
                what = f'load: {load.name!r} has mode = "history", and no table has a row history'
                message = f'{what}; set [history] tables, for example tables = ["*"]'
                raise ValueError(message)

    def start_of(self, account: Account) -> datetime | None:
        """Return the time before which an account's jobs are skipped: midnight in the mirror's time zone."""
        if not account.start:
            return None
        day = date.fromisoformat(account.start)
        return datetime(day.year, day.month, day.day, tzinfo=self.mirror.zone).astimezone(UTC)
