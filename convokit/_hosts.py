"""Read the host names of requests."""

from __future__ import annotations

from collections.abc import Iterable

LOGGED = "convokit.logged"
"""The key in an ASGI scope that tells a mounted application that the one around it logs the request."""


def read_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the first header of an ASGI scope with a name in lower case, or None."""
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


def strip_port(host: str) -> str:
    """Return the name in a Host or Origin header, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
