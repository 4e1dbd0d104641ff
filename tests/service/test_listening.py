"""The API's listening sockets, asked by real connections."""

import socket
import sys
from collections.abc import Iterator, Sequence

import pytest

from service.children import LaunchError
from service.listening import listen, steer

CONNECTIONS = 64

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the processes share one socket")


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    opened = listen("127.0.0.1", 0, number=3)
    yield opened
    for each in opened:
        each.close()


def arrivals(sockets: Sequence[socket.socket]) -> list[int]:
    """How many of CONNECTIONS new connections come to each socket."""
    clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(CONNECTIONS)]
    counts = []
    for each in sockets:
        each.setblocking(False)
        count = 0
        while True:
            try:
                each.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
        counts.append(count)
    for client in clients:
        client.close()
    return counts


@on_linux
def test_connections_are_spread_over_all_sockets(sockets: list[socket.socket]) -> None:
    counts = arrivals(sockets)
    assert sum(counts) == CONNECTIONS
    assert min(counts) > 0, "by chance once in 10^10"


@on_linux
def test_connections_go_to_the_living_alone_until_all_live(sockets: list[socket.socket]) -> None:
    for living in ([0, 2], [1], [0, 1, 2]):
        steer(sockets, living)
        counts = arrivals(sockets)
        assert sum(counts) == CONNECTIONS
        assert [index for index, count in enumerate(counts) if count] == living


@pytest.mark.parametrize("number", [1, 2])
def test_nobody_joins_an_address_that_is_in_use(number: int, sockets: list[socket.socket]) -> None:
    """Sockets that share an address may be joined by any process of the same user, which would get a part of the connections."""
    with pytest.raises(LaunchError, match="Address already in use"):
        listen("127.0.0.1", sockets[0].getsockname()[1], number=number)
