"""Run the viewer in uvicorn, for one person on this machine."""

from __future__ import annotations

import asyncio
import getpass
import logging
import socket
from types import FrameType
from typing import Any

import uvicorn

from convokit import AsyncConvokit
from convokit.errors import SettingsError
from convokit.viewer.access import Viewer
from convokit.viewer.guard import LOOPBACK_HOSTS
from convokit.viewer.routes import create_app
from convokit.viewer.sign_in import OneTimeLink

_CLOSE_S = 1


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server without raising the signal again: a viewer has nothing to finish."""
        self.force_exit = self.should_exit
        self.should_exit = True


def open_listener(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone. Port 0 is any free port. Raises: SettingsError."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        problem = f"cannot listen on port {port} ({error.strerror}): stop the other program, or choose another --port"
        raise SettingsError("port", problem) from None


def find_viewer(tenant: str) -> Viewer:
    """Return the person at this machine."""
    try:
        return Viewer(tenant, getpass.getuser())
    except (OSError, KeyError):  # a container may run as a user without a name
        return Viewer(tenant)


def run_viewer(
    database: Any, tenant: str, settings: dict[str, Any], listener: socket.socket, access: OneTimeLink
) -> None:
    """Serve the pages of a tenant until a signal ends the process."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it complains about streams that are open at the end
    asyncio.run(_serve(database, tenant, settings, listener, access))


async def _serve(
    database: Any, tenant: str, settings: dict[str, Any], listener: socket.socket, access: OneTimeLink
) -> None:
    async with AsyncConvokit(database, tenant=tenant, read_only=True, **settings) as kit:
        config = uvicorn.Config(
            create_app(kit, auth=access, allowed_hosts=LOOPBACK_HOSTS),
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_S,
        )
        await _Server(config).serve([listener])
