"""Read the servers that a PostgreSQL URL names, and choose among several.

A URL may name several servers that hold the same database: a primary and its standbys. libpq and psycopg try them in order and
take the first that `target_session_attrs` accepts.
"""

from __future__ import annotations

import os
import re
from itertools import zip_longest
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url

from convokit.errors import SettingsError

CONNECT_TIMEOUT_S = 3
"""Seconds for each of several servers. A host that is gone answers nothing, and the next one has to be tried soon."""
_TARGETS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_DEFAULTS = {"target_session_attrs": "PGTARGETSESSIONATTRS", "connect_timeout": "PGCONNECT_TIMEOUT"}
"""Options that a URL with several servers gets, and the variables of libpq that set them too."""
# The user and password are skipped as a whole (`?+`), because a password may contain any sign but "@".
_SEVERAL = re.compile(r"([\w+]+://(?:[^:/@]*(?::[^@]*)?@)?+)([^/?@]*,[^/?@]*)((?:[/?].*)?)", re.DOTALL)
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]+)(?::([0-9]+))?")
_MAX_PORT = 65535


def parse_postgresql_url(database: str) -> URL:
    """Return the URL of `database`, also if it names several servers as libpq does: `user@host1:5432,host2/name`.

    Raises: SettingsError for a wrong list of servers; ArgumentError and ValueError as `make_url` does.
    """
    several = _SEVERAL.fullmatch(database)
    if several is None:
        return _repeat_port(make_url(database))
    before, listed, after = several.groups()
    url = make_url(before + after)
    for name in ("host", "port"):
        if name in url.query:
            raise SettingsError("database", f"the URL lists servers and has the option {name!r} too: keep one")
    servers = [_parse_server(number, each) for number, each in enumerate(listed.split(","), 1)]
    ports = ",".join(port for _, port in servers)
    query = {"host": ",".join(host for host, _ in servers)}
    if ports.strip(","):
        query["port"] = ports
    return url.update_query_dict(query)


def _parse_server(number: int, server: str) -> tuple[str, str]:
    # The errors do not show the text: in a URL with a mistake it may be a part of the password.
    found = _SERVER.fullmatch(server)
    if found is None:
        problem = f"server {number} of the URL is not HOST or HOST:PORT (an IPv6 address stands in brackets)"
        raise SettingsError("database", f"{problem}: write postgresql://user@host1:5432,host2:5432/name")
    host, port = found[1].strip("[]"), found[2] or ""
    if port and not 0 < int(port) <= _MAX_PORT:
        raise SettingsError("database", f"server {number} of the URL has a port that is not 1 to {_MAX_PORT}")
    return unquote(host), port


def _repeat_port(url: URL) -> URL:
    """Write one port for each host: libpq uses a single port for all of them, and SQLAlchemy refuses that."""
    host, port = url.query.get("host"), url.query.get("port")
    if isinstance(host, str) and "," in host and isinstance(port, str) and "," not in port:
        return url.update_query_dict({"port": ",".join([port] * len(host.split(",")))})
    return url


def list_servers(url: URL) -> list[str]:
    """Return the servers that a URL names, with their ports if they have any. Empty: the URL leaves it to the environment."""
    hosts, ports = url.query.get("host") or url.host or "", url.query.get("port") or ""
    if not isinstance(hosts, str):  # host=a:1&host=b:2
        return list(hosts)
    names = hosts.split(",") if hosts else []
    numbers = ports.split(",") if isinstance(ports, str) else list(ports)
    if url.port is not None:
        numbers = [str(url.port)]
    pairs = zip_longest(names, numbers[: len(names)], fillvalue="")
    return [_join_address(host, port) for host, port in pairs]


def _join_address(host: str, port: str) -> str:
    if not port or host.startswith("/"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe_servers(url: URL) -> str:
    """Return the servers of a URL for people."""
    servers = list_servers(url)
    if len(servers) > 1:
        return ", ".join(servers)
    host = url.host or next(iter(servers), "")
    return host if host and not host.startswith("/") else "the local socket"


def check_target(url: URL) -> None:
    """Raise SettingsError if `target_session_attrs` has a value that libpq does not know."""
    target = url.query.get("target_session_attrs", "any")
    if target not in _TARGETS:
        problem = f"target_session_attrs is {target!r}: use one of {', '.join(_TARGETS)}"
        raise SettingsError("database", problem)


def add_failover_options(url: URL, *, read_only: bool) -> URL:
    """Return a URL with several servers so that a kit finds the one it needs, and does not wait long for one that is gone.

    A kit that writes takes a server that accepts writes. A kit that only reads takes the first that answers.
    """
    if len(list_servers(url)) < 2:
        return url
    options = {"connect_timeout": str(CONNECT_TIMEOUT_S)}
    if not read_only:
        options["target_session_attrs"] = "read-write"
    missing = {name: value for name, value in options.items() if name not in url.query}
    return url.update_query_dict({k: v for k, v in missing.items() if not os.environ.get(_DEFAULTS[k])})
