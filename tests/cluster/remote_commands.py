"""Record the commands that the coordinator of a cluster sends to the workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import Pool

_SERVER = re.compile(r"on server \S+@(\S+:\d+) ")


class RemoteCommands:
    """The commands since the last `take`: pairs of a worker's HOST:PORT and the SQL."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def take(self) -> list[tuple[str, str]]:
        """Return the commands since the last call."""
        found, self._found = self._found, []
        return found

    def hear(self, diagnostic: Any) -> None:
        text, server = diagnostic.message_primary or "", _SERVER.search(diagnostic.message_detail or "")
        if text.startswith("issuing ") and server is not None:
            self._found.append((server[1], text.removeprefix("issuing ")))


def with_log(url: str) -> str:
    """Return the URL with the options that make the coordinator report its commands to the client."""
    options = "-c citus.log_remote_commands=on -c client_min_messages=notice"
    return make_url(url).update_query_dict({"options": options}).render_as_string(hide_password=False)


@contextmanager
def record() -> Iterator[RemoteCommands]:
    """Record the commands of all connections that are made in the block, by URLs from `with_log`."""
    commands = RemoteCommands()

    def connect(connection: Any, record: object) -> None:
        getattr(connection, "driver_connection", connection).add_notice_handler(commands.hear)

    event.listen(Pool, "connect", connect)
    try:
        yield commands
    finally:
        event.remove(Pool, "connect", connect)
