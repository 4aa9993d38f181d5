"""Started in place of the daemon, it prints what a program under that unit can do, as JSON: "done" or the error."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import functools
import json
import mmap
import os
import resource
import socket
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

STATE: Final = Path("/var/lib/dcsync")
SECRET: Final = Path("/etc/dcsync/client-secret")


PRIVATE: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
_PLACES: Final = (
    *("/", "/etc", "/etc/dcsync", "/usr/local/bin", "/opt", "/home", "/root", "/boot", "/srv", "/run", "/mnt"),
    *("/var/log", "/var/lib", "/var/cache", "/var/spool", "/dev", "/sys/fs/cgroup", "/proc/sys/kernel"),
    *("/srv/dcsync", "/var/lib/dcsync", *PRIVATE),
)


def main() -> None:
    """Try it all."""
    tries: dict[str, Callable[[], object]] = {
        f"write {folder}": functools.partial(_write, folder) for folder in _PLACES
    }
    answer = {what: _tried(act) for what, act in {**tries, **_NEEDED, **_FORBIDDEN}.items()}
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    answer |= {name: status[name] for name in ("CapEff", "CapBnd", "NoNewPrivs")}
    answer["core limit"] = str(resource.getrlimit(resource.RLIMIT_CORE))
    print(json.dumps(answer))  # noqa: T201 - its answer


def _tried(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except Exception:  # noqa: BLE001 - told to the tests
        return traceback.format_exc()
    return "done"


def _write(folder: str) -> None:
    path = Path(folder) / "dcsync-was-here"
    path.write_text("x")
    if folder not in PRIVATE:  # there it is left, for others to see if they can
        path.unlink()


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) != 0:  # CLONE_NEWUSER
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _setuid() -> None:
    path = STATE / "setuid"
    path.touch()
    try:
        path.chmod(0o4755)
    finally:
        path.unlink()


def _lock() -> None:
    with (STATE / "some-lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (STATE / "some-lock").unlink()


def _rename_noreplace() -> None:
    from dcsync.mirror import disk

    folder = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY)
    (STATE / "one").touch()
    disk.rename_noreplace("one", folder, "two", folder)
    (STATE / "two").unlink()
    os.close(folder)


def _sign() -> None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode({"iss": "me"}, key, algorithm="RS256")
    jwt.decode(token, key.public_key(), algorithms=["RS256"])


async def _ask_database() -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(f"sqlite+aiosqlite:///{STATE}/probe.db")
    async with engine.begin() as connection:
        await connection.execute(text("PRAGMA journal_mode=WAL"))
        await connection.execute(text("CREATE TABLE t (x)"))
    await engine.dispose()
    (STATE / "probe.db").unlink()


async def _serve_and_fetch() -> None:
    import aiohttp
    from aiohttp import web

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    application = web.Application()
    application.router.add_get("/healthz", hello)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 9321)
    await site.start()
    async with aiohttp.ClientSession() as session, session.get("http://localhost:9321/healthz") as answer:
        assert await answer.text() == "hello"
    await runner.cleanup()


def _inflate() -> None:
    from isal import isal_zlib

    assert isal_zlib.decompress(isal_zlib.compress(b"x" * 1000)) == b"x" * 1000


def _schedule() -> None:
    import apscheduler.schedulers.asyncio  # noqa: F401


def _tls() -> None:
    import ssl

    ssl.create_default_context()


_NEEDED: Final[dict[str, Callable[[], object]]] = {
    "read the boot id": Path("/proc/sys/kernel/random/boot_id").read_text,
    "read a credential": lambda: Path(os.environ["CREDENTIALS_DIRECTORY"], "client-secret").read_text(),
    "open AF_INET6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(),
    "resolve a name": lambda: socket.getaddrinfo("localhost", 80),
    "run a child": lambda: subprocess.run(["true"], check=True, start_new_session=True),
    "lock a file": _lock,
    "rename without replacing": _rename_noreplace,
    "sign": _sign,
    "ask a database": lambda: asyncio.run(_ask_database()),
    "serve and fetch": lambda: asyncio.run(_serve_and_fetch()),
    "inflate": _inflate,
    "schedule": _schedule,
    "speak TLS": _tls,
}
#: With the error that each must give.
_FORBIDDEN_WITH: Final[dict[str, tuple[str, Callable[[], object]]]] = {
    "list /root": ("EACCES", lambda: list(Path("/root").iterdir())),
    "list /home": ("EACCES", lambda: list(Path("/home").iterdir())),
    "see process 1": ("ENOENT", Path("/proc/1").stat),
    "read the file behind a credential": ("EACCES", SECRET.read_text),
    "map memory to write and execute": (
        "EPERM",
        lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    ),
    "open AF_NETLINK": ("EAFNOSUPPORT", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
    "open AF_PACKET": ("EAFNOSUPPORT", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
    "enter a namespace": ("EPERM", _unshare),
    "make a file setuid": ("EPERM", _setuid),
    "give a file away": ("EPERM", lambda: os.chown(STATE, 0, 0)),
}
_FORBIDDEN: Final = {what: act for what, (_, act) in _FORBIDDEN_WITH.items()}
NEEDED: Final = tuple(_NEEDED)
FORBIDDEN: Final = {what: error for what, (error, _) in _FORBIDDEN_WITH.items()}


if __name__ == "__main__":
    main()
