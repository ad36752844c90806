"""Store the API keys of the gateway, and count their requests.

A key is 256 random bits. Its SHA-256 is stored, and the key itself is shown once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from convokit.store.dialects import dialect_of
from convokit.store.schema import key, key_window

PREFIX = "ck-"
CHAT, READ = "chat", "read"
"""The scopes: a key with `chat` asks the model and writes, one with `read` reads."""
_KEPT_WINDOWS = 10
"""A process with a late clock must find what others took of its window. Without the row it would get the limit again."""
_SELECT = select(key)
_SELECT_BY_DIGEST = _SELECT.where(key.c.digest == bindparam("digest"))
_SELECT_BY_NAME = _SELECT.where(key.c.tenant == bindparam("tenant"), key.c.name == bindparam("name"))
_COUNT_USABLE = (
    select(func.count())
    .select_from(key)
    .where(key.c.revoked_at.is_(None), or_(key.c.expires_at.is_(None), key.c.expires_at > bindparam("now")))
)
_REVOKE = (
    update(key)
    .where(key.c.tenant == bindparam("b_tenant"), key.c.name == bindparam("b_name"), key.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("new_revoked_at"))
)
_OF_WINDOW = (
    key_window.c.digest == bindparam("b_digest"),
    key_window.c.kind == bindparam("b_kind"),
    key_window.c.period == bindparam("b_period"),
)
_SELECT_USED = select(key_window.c.used).where(*_OF_WINDOW).with_for_update()
_UPDATE_USED = update(key_window).where(*_OF_WINDOW).values(used=bindparam("new_used"))
_DELETE_OLD = delete(key_window).where(
    key_window.c.digest == bindparam("b_digest"),
    key_window.c.kind == bindparam("b_kind"),
    key_window.c.period <= bindparam("b_period"),
)


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """An API key without the key. Times are microseconds since 1970."""

    digest: bytes
    tenant: str
    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    requests_per_minute: int | None
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


_LISTS = ("scopes", "models")


def make_key() -> str:
    """Return a new API key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_key(api_key: str) -> bytes:
    """Return the digest that a key is stored and looked up by."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).digest()


def insert_key(connection: Connection, row: ApiKeyRow) -> None:
    """Store a key. Raises: IntegrityError for a name that the tenant has already."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    values |= {name: None if values[name] is None else json.dumps(values[name]) for name in _LISTS}
    connection.execute(insert(key), values)


def find_key(connection: Connection, digest: bytes) -> ApiKeyRow | None:
    """Return the key with a digest, also a revoked or expired one."""
    return _read(connection.execute(_SELECT_BY_DIGEST, {"digest": digest}).one_or_none())


def find_key_by_name(connection: Connection, tenant: str, name: str) -> ApiKeyRow | None:
    """Return the tenant's key with a name, also a revoked or expired one."""
    return _read(connection.execute(_SELECT_BY_NAME, {"tenant": tenant, "name": name}).one_or_none())


def list_keys(connection: Connection, tenant: str | None = None) -> list[ApiKeyRow]:
    """Return all keys of a tenant, or of every tenant, the oldest first."""
    query = _SELECT if tenant is None else _SELECT.where(key.c.tenant == tenant)
    rows = connection.execute(query.order_by(key.c.created_at, key.c.digest))
    return [row for each in rows if (row := _read(each)) is not None]


def _read(row: Any) -> ApiKeyRow | None:
    if row is None:
        return None
    values = dict(row._mapping)
    values |= {name: None if values[name] is None else tuple(json.loads(values[name])) for name in _LISTS}
    return ApiKeyRow(**{**values, "digest": bytes(values["digest"])})


def revoke_key(connection: Connection, tenant: str, name: str, at: int) -> bool:
    """Revoke a key for good. Return False if the tenant has no such key that is not revoked."""
    values = {"b_tenant": tenant, "b_name": name, "new_revoked_at": at}
    return connection.execute(_REVOKE, values).rowcount == 1


def has_keys(connection: Connection) -> bool:
    """Return whether any tenant has a key that is neither revoked nor expired."""
    return bool(connection.execute(_COUNT_USABLE, {"now": time.time_ns() // 1000}).scalar_one())


def take_permits(connection: Connection, digest: bytes, kind: str, period: int, wanted: int, limit: int) -> int:
    """Take up to `wanted` permits of a window, and return how many were left for this caller.

    All processes together never get more than `limit`, if their clocks differ by less than ten windows: the ten newest windows
    are kept.
    """
    where = {"b_digest": digest, "b_kind": kind, "b_period": period}
    first = {"digest": digest, "kind": kind, "period": period, "used": 0}
    made: Any = connection.execute(dialect_of(connection).insert_or_ignore(key_window), first)
    if made.rowcount == 1:
        connection.execute(_DELETE_OLD, {**where, "b_period": period - _KEPT_WINDOWS})
    used: int = connection.execute(_SELECT_USED, where).scalar_one()
    granted = max(min(wanted, limit - used), 0)
    if granted:
        connection.execute(_UPDATE_USED, {**where, "new_used": used + granted})
    return granted


def describe_state(row: ApiKeyRow, now: int) -> str:
    """Return "revoked", "expired" or "active"."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "active"
