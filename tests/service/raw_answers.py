"""Answers as they come over a socket: in as many pieces as the network likes."""

import socket


class Answers:
    """Reads answers one after the other from a connection, of which ``begun`` has come already."""

    def __init__(self, connection: socket.socket, begun: bytes = b"") -> None:
        self._connection, self._data = connection, begun

    def next(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        while b"\r\n\r\n" not in self._data:
            self._data += self._part()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        while len(self._data) < length:
            self._data += self._part()
        body, self._data = self._data[:length], self._data[length:]
        return int(status_line.split()[1]), headers, body

    def is_over(self) -> bool:
        """Whether the server has closed the connection, with nothing left over."""
        return not self._data and self._connection.recv(1) == b""

    def _part(self) -> bytes:
        part = self._connection.recv(65_536)
        assert part, f"the server closed the connection after {self._data!r}"
        return part
