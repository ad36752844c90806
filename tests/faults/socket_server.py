"""A server made of bare sockets: it closes, resets, lies about lengths and goes silent, as no HTTP library would let it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Line:
    """One connection: what may be done to it. `ordinal` counts the requests that were read, on all connections."""

    peer: socket.socket
    ordinal: int = 0

    def send(self, data: bytes) -> None:
        """Write everything."""
        self.peer.sendall(data)

    def reset(self) -> None:
        """Close with RST: the other side's next read fails, whatever was on its way."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()


@dataclass
class Wire:
    """The server. `fault` gets each connection after a whole request was read; whole answers keep it open, others end it."""

    fault: Callable[[Line], bool]
    early: Callable[[Line], bool] | None = None
    """Done before anything is read; True ends the connection there."""
    requests: int = 0
    port: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def accept(self, listener: socket.socket) -> None:
        """Serve until the test is over, each connection in a thread of its own."""
        while not self.stopping.is_set():
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Line(peer),), daemon=True).start()

    def _serve(self, line: Line) -> None:
        with contextlib.suppress(OSError), contextlib.closing(line.peer):
            if self.early is not None and self.early(line):
                return
            while _read_request(line.peer):
                self.requests += 1
                line.ordinal = self.requests
                if not self.fault(line):
                    return


def _read_request(peer: socket.socket) -> bool:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = peer.recv(65536)
        if not piece:
            return False
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        piece = peer.recv(65536)
        if not piece:
            return False
        body += piece
    return True


@contextlib.contextmanager
def wired(fault: Callable[[Line], bool], early: Callable[[Line], bool] | None = None) -> Iterator[Wire]:
    """Run such a server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(fault, early, port=listener.getsockname()[1])
        thread = threading.Thread(target=wire.accept, args=(listener,), daemon=True)
        thread.start()
        yield wire
        wire.stopping.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """Listen without accepting, with the queue full: the kernel drops what tries to connect."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
        waiting.append(one)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    for one in [*waiting, listener]:
        one.close()
