"""The daemon's end of the socket. `tests/cli/test_orders.py` has what commands see."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import JsonValue

from dcsync.app.state_dir import state_folder
from dcsync.clock import SystemClock
from dcsync.daemon.open_order import OpenOrder
from dcsync.daemon.orders import RETRY_S, Orders
from dcsync.errors import DcsyncError, MirrorNotMounted
from dcsync.orders import SOCKET_NAME, Answer, Order, Peer, connect, send
from tests.rigs.daemon import Rig, running
from tests.rigs.mirror import Mirror, mirroring
from tests.rigs.waiting import until


async def echo(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    answer = Answer()
    answer.echo(f"{options}")
    return answer


def last_waiting(rig: Rig) -> str:
    return next(text for text in reversed(rig.heard.messages) if text.startswith("STATUS=waiting"))


async def test_a_socket_that_cannot_be_made_is_an_alert_until_it_can(tmp_path: Path) -> None:
    def block(mirror: Mirror) -> None:
        (tmp_path / "state").mkdir(mode=0o700)
        (tmp_path / "state" / SOCKET_NAME).mkdir()

    async with running(tmp_path, prepare=block, works={"echo": echo}) as rig:
        await until(lambda: rig.service._orders.problem)
        await rig.pass_time(minutes=16)
        assert "P-ORDERS" in last_waiting(rig)
        (problem,) = rig.service._problems()
        assert problem.message == f"{tmp_path}/state/{SOCKET_NAME} cannot be used: is a directory"
        assert "stop the daemon for commands that write" in problem.hint

        (tmp_path / "state" / SOCKET_NAME).rmdir()
        await rig.pass_time(seconds=RETRY_S + 1)
        await until(lambda: rig.service._orders.problem is None)
        await rig.pass_time(minutes=20)

        assert "P-ORDERS" not in last_waiting(rig)
        connection = connect(tmp_path / "state")
        assert connection is not None
        connection.close()


async def test_an_order_that_waits_for_the_mirror_fails_with_the_error_of_the_mirror(tmp_path: Path) -> None:
    waited: list[str] = []
    async with mirroring(tmp_path) as mirror:
        config, orders = mirror.configuration(), Orders({"echo": echo}, clock=SystemClock())
        state = state_folder(config)

        def lose(what: str) -> None:
            waited.append(what)
            orders.mirror_lost(MirrorNotMounted("the disk is gone"))

        async with orders.opened():
            orders.mirror_locked(config)
            await until((state / SOCKET_NAME).exists)
            connection = connect(state)
            assert connection is not None
            order = Order(name="echo", root=str(config.mirror.root))
            with pytest.raises(DcsyncError, match="the disk is gone") as caught:
                await send(connection, order, waits=lose, progressed=lambda _event, _values: None)

            assert type(caught.value) is MirrorNotMounted
            assert waited == ["opening the mirror"]
            # Without the socket, commands meet the error themselves.
            await until(lambda: not (state / SOCKET_NAME).exists())


@pytest.mark.parametrize(("uid", "is_accepted"), [(0, True), (os.geteuid(), True), (54321, False)])
async def test_only_the_owner_and_root_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, is_accepted: bool
) -> None:
    """The mode of the socket keeps others out. This is the second lock."""
    monkeypatch.setattr("dcsync.daemon.orders.peer_of", lambda _: Peer(pid=1, uid=uid))
    async with mirroring(tmp_path) as mirror:
        config, orders = mirror.configuration(), Orders({"echo": echo}, clock=SystemClock())
        state = state_folder(config)
        async with orders.opened():
            orders.mirror_locked(config)
            await until((state / SOCKET_NAME).exists)
            connection = connect(state)
            assert connection is not None
            with connection:
                connection.settimeout(60)
                said = await asyncio.to_thread(connection.recv, 1000)

    assert (b'"hello"' in said) == is_accepted
