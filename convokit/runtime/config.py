"""Build the state of a kit and a chat from their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from sqlalchemy.engine import URL

from convokit.completion.notifier import make_notifier
from convokit.completion.options import NO_OPTIONS, Options
from convokit.completion.state import ChatRef, DatabaseIdentity, KitState
from convokit.domain.conversation import MAIN
from convokit.domain.ids import MAX_SEQ, new_id, parse_id
from convokit.domain.profiles import DEFAULT_BASE_URL, resolve_profile
from convokit.domain.text import validate_json, validate_name, validate_text
from convokit.errors import InvalidInput, SettingsError
from convokit.observers import Observer
from convokit.runtime.process import is_alive, lines, owner, running
from convokit.settings import UNSET, Environment, Limits
from convokit.store.dialects import dialect_of_url
from convokit.store.engine import describe_url, parse_database_url

OnDisconnect = Literal["stop", "finish"]
ApiKey = str | Callable[[], str | None] | None


def make_kit_state(
    database: str | Path | None,
    options: Options,
    *,
    base_url: str | None,
    api_key: ApiKey,
    tenant: str,
    limits: Limits | None,
    search: bool = True,
    read_only: bool = False,
    observers: Sequence[Observer] = (),
) -> tuple[URL, KitState]:
    """Return the database's URL and the kit's state. Raises: SettingsError, InvalidInput."""
    environment = Environment.read()
    given = database if database is not None else environment.database_url
    if given is None:
        raise SettingsError("database", 'no database was given: pass "sqlite:///chat.db" or set CONVOKIT_DATABASE_URL')
    if options.model is UNSET and environment.model is not None:
        options = replace(options, model=environment.model)
    url = parse_database_url(given)
    server = base_url or environment.base_url or DEFAULT_BASE_URL
    if isinstance(options.profile, str):
        resolve_profile("", server, name=options.profile)
    if limits is not None and not isinstance(limits, Limits):
        raise SettingsError("limits", f"must be Limits, not {limits!r}")
    for name, value in (("search", search), ("read_only", read_only)):
        if not isinstance(value, bool):
            raise SettingsError(name, f"must be True or False, not {value!r}")
    bounds = limits or Limits()
    state = KitState(
        tenant=validate_name("tenant", tenant, bounds.key_chars),
        database=DatabaseIdentity(describe_url(url)),
        base_url=server,
        api_key=_make_key_source(api_key, environment.api_key if base_url is None else None),
        options=options,
        limits=bounds,
        owner=owner,
        is_alive=is_alive,
        has_local_clock=dialect_of_url(url).has_local_clock,
        search=search,
        read_only=read_only,
        running=running,
        lines=lines,
        notifier=make_notifier(observers),
    )
    return url, state


def with_tenant(state: KitState, tenant: str) -> KitState:
    """Return the state of the same kit for another tenant. Raises: InvalidInput."""
    return replace(state, tenant=validate_name("tenant", tenant, state.limits.key_chars))


def finishes_without_reader(on_disconnect: str) -> bool:
    """Return whether a reply goes on after its reader left. Raises: SettingsError unless "stop" or "finish"."""
    if on_disconnect not in ("stop", "finish"):
        raise SettingsError("on_disconnect", f'must be "stop" or "finish", not {on_disconnect!r}')
    return on_disconnect == "finish"


def _make_key_source(given: ApiKey, from_environment: str | None) -> Callable[[], str | None]:
    """Return a function that returns the key for each call: keys rotate. A key of the environment goes only to its own host."""
    if callable(given):
        return lambda: _check_key(given())
    key = _check_key(given if given is not None else from_environment)
    return lambda: key


def _check_key(key: object) -> str | None:
    """Return a key that can be sent in a header. Raises: SettingsError, which does not show the key."""
    if key is None:
        return None
    if not isinstance(key, str):
        raise SettingsError("api_key", f"must be text or a function that returns text, not {type(key).__name__}")
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise SettingsError("api_key", "contains whitespace at an end, control characters or non-ASCII characters")
    return key


def _check_branch(limits: Limits, branch: object) -> int | str | None:
    """Return the branch to look up, None for the main branch. Raises: InvalidInput."""
    number = isinstance(branch, int) and not isinstance(branch, bool) and 0 <= branch <= MAX_SEQ
    if not number and (not isinstance(branch, str) or not branch):
        raise InvalidInput("branch", f"must be the number or name of a branch, not {branch!r}")
    if isinstance(branch, str):
        validate_text("branch", branch, limit=limits.key_chars * 4, setting="Limits.key_chars")
    return None if branch in (0, MAIN) else cast("int | str", branch)


def make_chat_ref(
    state: KitState,
    key: str | None,
    id: object,
    *,
    subject: str | None,
    title: str | None,
    metadata: object,
    options: Options,
    branch: object = 0,
) -> ChatRef:
    """Return the reference of a chat. Raises: InvalidInput for a key, subject or metadata that cannot be stored."""
    limits = state.limits
    if key is not None and id is not None:
        raise InvalidInput("key", "pass a key or an id, not both")
    for name, value in (("key", key), ("subject", subject), ("title", title)):
        if value is not None:
            validate_name(name, value, limits.key_chars)
    encoded = None
    if metadata is not None:
        encoded = validate_json("metadata", metadata, limit=limits.metadata_bytes, setting="Limits.metadata_bytes")  # type: ignore[arg-type]  # validated there
        encoded = None if encoded == "{}" else encoded
    return ChatRef(
        key=key,
        id=new_id() if id is None and key is None else None if id is None else parse_id(id),  # type: ignore[arg-type]  # validated there
        subject=subject,
        title=title,
        metadata=encoded,
        options=NO_OPTIONS if options == NO_OPTIONS else options,
        must_exist=id is not None,
        unresolved_branch=_check_branch(limits, branch),
    )
