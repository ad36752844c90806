"""Translate errors of PostgreSQL and its driver.

The SQLSTATE decides whether another try may succeed. A message is read only where PostgreSQL or Citus gives no better SQLSTATE.
"""

from __future__ import annotations

import re

from convokit.errors import ConvokitError, ReadOnly, StoreError, StoreFull, StoreUnavailable

READ_ONLY_STATE = "25006"
"""SQLSTATE: a statement that writes in a transaction that may only read, or on a standby."""
_FULL_STATES = {"53100", "53200"}
"""SQLSTATEs: disk full, out of memory."""
_PROGRAM_LIMIT_STATE = "54000"
"""SQLSTATE: a row is too long for an index, among others."""
_KEY_IS_TOO_LONG = (
    "a key or subject is too long for an index: with the tenant it may have about 2,700 bytes in PostgreSQL; shorten it"
)
_TRANSIENT_STATES = {"25P03", "40001", "40P01", "53300", "55P03"}
"""SQLSTATEs: idle in a transaction for too long, serialization failure, deadlock, too many connections, lock timeout."""
_TRANSIENT_CLASSES = ("08", "57P0")
"""Beginnings of SQLSTATEs: a lost connection, and a server that shuts down, crashed or starts."""
_INTERNAL_STATE = "XX000"
"""SQLSTATE of Citus for several errors, a lost worker among them."""
_LOST_WORKER = (
    "server closed the connection",
    "connection marked as essential",
    "connection to the remote node",
    "connection not open",
    "no connection to the server",
    "could not commit transaction for shard",
    "could not receive data from server",
    "could not send data to server",
    "SSL connection has been closed",
)
"""Parts of the messages of Citus, and of libpq in it, that report a lost connection to a worker."""
_READ_ONLY_SESSION = ("session is read-only", "server is in hot standby mode")
"""Parts of the messages of libpq about a server that `target_session_attrs` refuses."""
_SERVER_IS_READ_ONLY = (
    "the server is read-only (SQLSTATE 25006): it is a standby or was demoted, or default_transaction_read_only is on; "
    "connect to the primary, or list all servers in the URL"
)
_SERVERS_ARE_READ_ONLY = "each server of the URL is read-only: promote a standby, or pass read_only=True to read"
_ATTEMPT = re.compile(r"^- host: '?(.*?)'?, port: '?(.*?)'?, hostaddr: .*?: (.*)$", re.MULTILINE)
"""A line of psycopg about one of several servers."""
_REASON_CHARS = 300


def translate_postgresql_error(name: str, error: BaseException, *, is_connection_lost: bool) -> ConvokitError:
    """Return the ConvokitError for a failure of a kit that may write; `name` describes the database."""
    state = getattr(error, "sqlstate", None)
    if state is None and type(error).__name__ in ("OperationalError", "ConnectionTimeout"):
        return _translate_connection_error(name, str(error).strip())
    if state is None and type(error).__name__ == "ProgrammingError":  # psycopg refuses a setting before it connects
        return StoreUnavailable(
            name, f"cannot be used ({_first_line(str(error))}): check the URL and the variables PG*"
        )
    if state in _FULL_STATES:
        return StoreFull(name, "the server is out of disk space or memory; this transaction was rolled back")
    if state == READ_ONLY_STATE:
        return ReadOnly(name, "a statement that writes", server=_SERVER_IS_READ_ONLY)
    if state == _PROGRAM_LIMIT_STATE and "index row size" in str(error):
        return StoreUnavailable(name, _KEY_IS_TOO_LONG)
    detail = type(error).__name__ + (f", SQLSTATE {state}" if state else "")
    if (state or "").startswith("23"):  # another try would be refused too
        return StoreError(f"{name}: refused a row ({detail})")
    if is_connection_lost or (state or "").startswith("08"):
        return StoreUnavailable(name, f"dropped the connection ({detail})", transient=True)
    return StoreUnavailable(name, f"refused a statement ({detail})", transient=_is_transient(state or "", error))


def _is_transient(state: str, error: BaseException) -> bool:
    """Return whether another try may succeed. A statement timeout or an operator's cancel (57014) is final on purpose."""
    if state == _INTERNAL_STATE:
        message = _first_line(str(error))
        return any(part in message for part in _LOST_WORKER)
    return state in _TRANSIENT_STATES or state.startswith(_TRANSIENT_CLASSES)


def _translate_connection_error(name: str, message: str) -> ConvokitError:
    attempts = [(f"{host}:{port}", reason) for host, port, reason in _ATTEMPT.findall(message)]
    reasons = [reason for _, reason in attempts] or [_first_line(message)]
    if all(any(part in reason for part in _READ_ONLY_SESSION) for reason in reasons):
        return ReadOnly(name, "a connection that writes", server=_SERVERS_ARE_READ_ONLY)
    # The first line names host and reason. Later lines are skipped: drivers put bound values into messages.
    reason = "; ".join(dict.fromkeys(reasons))[:_REASON_CHARS]
    return StoreUnavailable(name, f"cannot be reached ({reason})", transient=True)


def _first_line(message: str) -> str:
    return message.strip().split("\n", 1)[0][:_REASON_CHARS]
