"""A proxy before PostgreSQL that loses acknowledgements: a COMMIT is done by the server, its answer never comes back.

It reads the messages of both sides, so clients must speak in the clear: `through` gives a URL without TLS and GSSAPI.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from io import BufferedIOBase

from sqlalchemy.engine import URL, make_url

_COMMIT, _COMMITTED = b"Q\0\0\0\x0bCOMMIT\0", b"C\0\0\0\x0bCOMMIT\0"


class Proxy:
    """Passes everything on. `commits` counts what clients commit; `lose(n)` loses the answer to the nth from now."""

    def __init__(self, server: URL) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._lost_at, self._late_s = 0, 0.0
        self.commits = 0
        self._links: list[_Link] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def through(self, url: str) -> str:
        """Return the URL that reaches `url`'s database through the proxy."""
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        address = make_url(url).set(host="127.0.0.1", port=self.port, query=plain)
        return address.render_as_string(hide_password=False)

    def lose(self, number: int, *, late_s: float = 0.0) -> None:
        """Lose the answer to the commit that is the `number`th from now.

        With `late_s` the client is cut off first, and the server gets the COMMIT, and does it, that much later.
        """
        with self._lock:
            self._lost_at, self._late_s = self.commits + number, late_s

    @property
    def lost(self) -> bool:
        """Whether what `lose` asked for has happened."""
        with self._lock:
            return 0 < self._lost_at <= self.commits

    def committing(self) -> float | None:
        """Count a commit. Return how late it must be if its answer is to be lost, else None."""
        with self._lock:
            self.commits += 1
            return self._late_s if self.commits == self._lost_at else None

    def close(self) -> None:
        _end(self._listener)
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # messages are passed on one by one
                self._links.append(_Link(self, client, self._connect()))

    def _connect(self) -> socket.socket:
        host, port = self._server.host or self._server.query.get("host"), self._server.port or 5432
        assert isinstance(host, str)
        if not host.startswith("/"):
            connection = socket.create_connection((host, port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{host}/.s.PGSQL.{port}")
        return connection


class _Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._losing, self._answered = False, threading.Event()
        for work in (self._ask, self._answer):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def close(self) -> None:
        _end(self._client)
        _end(self._server)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError, ValueError):
                work()
        finally:
            self.close()

    def _ask(self) -> None:
        with self._client.makefile("rb") as messages:
            self._server.sendall(_message(b"", messages.read(4), messages))  # the first message alone has no kind
            while kind := messages.read(1):
                message = _message(kind, messages.read(4), messages)
                late_s = self._proxy.committing() if message == _COMMIT else None
                if late_s is not None:
                    self._losing = True
                    if late_s:
                        _end(self._client)
                        time.sleep(late_s)
                self._server.sendall(message)
                if late_s is not None:
                    self._answered.wait(10)

    def _answer(self) -> None:
        with self._server.makefile("rb") as messages:
            while kind := messages.read(1):
                message = _message(kind, messages.read(4), messages)
                if self._losing and message == _COMMITTED:
                    self._answered.set()
                    return
                self._client.sendall(message)


def _message(kind: bytes, length: bytes, rest: BufferedIOBase) -> bytes:
    """Return a whole message: a kind, a length that counts itself, a body."""
    return kind + length + rest.read(int.from_bytes(length, "big") - 4)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
