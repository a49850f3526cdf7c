"""The proxy by which other tests break links breaks them as it says."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from schemas.bus import Bus
from schemas.target import Target
from tests.proxy import Proxy, Way, proxied
from tests.until import eventually, until


class Pair:
    """A connection through a proxy: `here` is the client's end, `there` the server's."""

    def __init__(self, listener: socket.socket, proxy: Proxy) -> None:
        self.here = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        self.there, _ = listener.accept()
        self.there.settimeout(10)
        self.here.sendall(b"!")  # the listener's end stands before the proxy has its own
        assert self.there.recv(1) == b"!"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[Proxy]:
    with proxied(Target(f"nats://127.0.0.1:{listener.getsockname()[1]}")) as made:
        yield made


def silent(sock: socket.socket) -> bool:
    """Whether nothing, not even an end, came within a moment."""
    sock.settimeout(0.2)
    try:
        sock.recv(1)
        return False
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)


def test_bytes_and_ends_pass_both_ways(listener: socket.socket, proxy: Proxy) -> None:
    pair = Pair(listener, proxy)
    pair.here.sendall(b"ask")
    assert pair.there.recv(10) == b"ask"
    pair.there.sendall(b"answer")
    assert pair.here.recv(10) == b"answer"
    pair.here.shutdown(socket.SHUT_WR)
    assert pair.there.recv(10) == b""
    pair.there.sendall(b"last words")
    pair.there.close()
    assert pair.here.recv(20) + pair.here.recv(1) == b"last words"
    until(lambda: proxy.links == 0)


def test_a_cut_resets_what_is_open_and_refuses_what_comes(listener: socket.socket, proxy: Proxy) -> None:
    pair = Pair(listener, proxy)
    proxy.cut()
    for end in (pair.here, pair.there):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    proxy.mend()
    again = Pair(listener, proxy)
    again.here.sendall(b"x")
    assert again.there.recv(1) == b"x"


def test_a_black_hole_tells_nothing_and_delivers_late(listener: socket.socket, proxy: Proxy) -> None:
    pair = Pair(listener, proxy)
    proxy.swallow()
    pair.here.sendall(b"lost?")
    pair.there.sendall(b"too?")
    pair.there.shutdown(socket.SHUT_WR)
    assert silent(pair.here) and silent(pair.there)
    proxy.mend()
    assert pair.there.recv(10) == b"lost?"
    assert pair.here.recv(10) + pair.here.recv(1) == b"too?"


def test_one_way_may_fail_alone(listener: socket.socket, proxy: Proxy) -> None:
    pair = Pair(listener, proxy)
    proxy.swallow(Way.FROM_BROKER)
    pair.here.sendall(b"heard")
    assert pair.there.recv(10) == b"heard"
    pair.there.sendall(b"not")
    assert silent(pair.here)


def test_a_delay_holds_all_bytes_in_their_order(listener: socket.socket, proxy: Proxy) -> None:
    pair = Pair(listener, proxy)
    proxy.delay(0.3, Way.TO_BROKER)
    begun = time.monotonic()
    pair.here.sendall(b"one ")
    pair.here.sendall(b"two")
    got = b""
    while len(got) < 7:
        got += pair.there.recv(10)
    assert got == b"one two"
    assert time.monotonic() - begun >= 0.3
    pair.there.sendall(b"quick")
    assert pair.here.recv(10) == b"quick"


def test_a_reset_of_one_side_is_passed_on(listener: socket.socket, proxy: Proxy) -> None:
    """As when a process is killed that had unread bytes."""
    pair = Pair(listener, proxy)
    pair.here.sendall(b"unread")
    until(lambda: pair.there.recv(10, socket.MSG_PEEK) == b"unread")
    pair.there.close()
    with pytest.raises(ConnectionResetError):
        pair.here.recv(1)


async def test_a_client_of_the_broker_sees_a_cut_and_comes_back(target: Target) -> None:
    told: list[str] = []
    with proxied(target) as proxy:
        bus = await Bus.connect(
            proxy.target(target), name="test", on_lost=lambda: told.append("lost"), on_back=lambda: told.append("back")
        )
        await bus.flush()
        proxy.cut()
        await eventually(lambda: told == ["lost"])
        proxy.mend()
        await eventually(lambda: told == ["lost", "back"], 30)
        await asyncio.wait_for(bus.flush(), 60)
        await bus.close()
