"""A token endpoint, a store of either kind, and any number of processes that refresh."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import ChainStore, TokenPair, TokenStore
from dcsync.errors import (
    ConfigError,
)
from dcsync.sandbox import Fault, Sandbox, World
from dcsync.tasks import DiskThreads
from tests.fakes import FakeClock


@dataclass(slots=True, kw_only=True)
class Rig:
    """A token endpoint, a store, and any number of processes on it. The sandbox has its own clock."""

    sandbox: Sandbox
    folder: Path
    clock: FakeClock
    disk: DiskThreads
    seed: str
    #: Opens the store as one process does.
    open_store: Callable[[], ChainStore]

    @property
    def store(self) -> ChainStore:
        return self.open_store()

    @property
    def path(self) -> Path:
        """The token file of a folder store."""
        return self.folder / "token.json"

    @property
    def asked(self) -> int:
        return self.sandbox.count("token")

    def source(
        self,
        *,
        seed: str | None = "",
        secret: str = "sandbox-secret",
        base_url: str | None = None,
        seed_problem: ConfigError | None = None,
    ) -> RefreshingToken:
        """Return the token source of one process. An empty seed means the rig's seed."""
        return RefreshingToken(
            store=self.open_store(),
            endpoint=TokenEndpoint(
                base_url=base_url or self.sandbox.base_url, client=Client(id="sandbox", secret=secret)
            ),
            clock=self.clock,
            disk=self.disk,
            seed=self.seed if seed == "" else seed,
            seed_problem=seed_problem,
        )

    def break_next(self, kind: str, *, times: int | None = 1, **more: object) -> Fault:
        return self.sandbox.faults.add(Fault(server="token", kind=kind, times=times, **more))  # type: ignore[arg-type]

    def answer_next(self, body: str) -> None:
        self.break_next("json", body=body.encode())

    def stored(self) -> TokenPair:
        pair = self.store.read()
        assert pair is not None
        return pair


@asynccontextmanager
async def rigged(folder: Path, open_store: Callable[[], ChainStore]) -> AsyncIterator[Rig]:
    async with Sandbox(World()) as sandbox:
        with DiskThreads() as disk:
            seed = sandbox.tokens.issue_refresh_token("tester")
            yield Rig(sandbox=sandbox, folder=folder, clock=FakeClock(), disk=disk, seed=seed, open_store=open_store)


@pytest.fixture(params=["folder", "database"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """One rig for each kind of store, because the token protocol is the same."""
    with ExitStack() as stack:
        opener = request.getfixturevalue("shared_store") if request.param == "database" else None

        def open_store() -> ChainStore:
            return TokenStore(tmp_path) if opener is None else stack.enter_context(closing(opener()))

        async with rigged(tmp_path, open_store) as ready:
            yield ready


@pytest.fixture
async def folder_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(tmp_path, lambda: TokenStore(tmp_path)) as ready:
        yield ready


@contextmanager
def full_disk() -> Iterator[None]:
    """Limit files to 4 KiB: a write is short and the next one fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
