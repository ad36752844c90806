"""What a flow knows of the kit and the chat it works for.

What a call, its chat and its kit set, put together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Clock, Flow, read_flow, read_once_flow
from convokit.completion.options import NO_OPTIONS, Options, ResolvedOptions, settle
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.errors import NotFound, SettingsError
from convokit.settings import UNSET, Limits
from convokit.store import branches, conversations, migrations
from convokit.wire.headers import endpoint_url

Plans = dict[str | None, ResolvedOptions]
"""Settled plans, by what the conversation stores of its own settings."""
_PLANS = 256
"""Settled plans that are kept: one for each way in which conversations are set."""


@dataclass(slots=True)
class Database:
    """One database as flows see it: its name for people, and its id once it was checked."""

    name: str
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class KitState:
    """A kit: one tenant of one database, one server, and the settings that chats and calls may override."""

    tenant: str
    database: Database
    base_url: str
    api_key: Callable[[], str | None]
    options: Options
    limits: Limits
    owner: Callable[[], str]
    """Names this worker: host, boot, process, start."""
    is_dead: Callable[[str, UUID], bool]
    """Whether the owner of a turn is known to be gone."""
    search: bool = True
    """Whether messages are entered into the search index, and found in it."""
    running: set[UUID] = field(default_factory=set)
    """The turns that this process is running."""
    url: str = field(init=False)
    """Where calls go: the endpoint below `base_url`."""
    plans: Plans = field(default_factory=dict, repr=False, compare=False)
    """The plans of chats that set nothing on their handle, for calls that set nothing either."""
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", endpoint_url(self.base_url))


@dataclass(slots=True)
class ChatRef:
    """A chat: which conversation and branch, and what was set on it."""

    key: str | None = None
    id: UUID | None = None
    branch: int = 0
    wanted: int | str | None = None
    """The number or name of a branch that was not looked for yet."""
    subject: str | None = None
    title: str | None = None
    metadata: str | None = None
    options: Options = NO_OPTIONS
    must_exist: bool = False
    """Whether it was named by an id: nothing is created under an id that someone else may have, unseen."""
    plans: Plans = field(default_factory=dict, repr=False, compare=False)
    """The plans of a chat that sets something on its handle, for calls that set nothing."""

    @property
    def name(self) -> object:
        """What people call it: its key, else its id."""
        return self.key if self.key is not None else self.id


def check_schema_flow(scope: KitState) -> Flow[UUID]:
    """Return the database's id, after checking once per kit that tables and code fit."""
    if scope.database.id is None:
        scope.database.id = yield from read_once_flow(migrations.check_schema, scope.database.name)
    return scope.database.id


def identify_flow(scope: KitState, target: ChatRef) -> Flow[UUID]:
    """Return the conversation's id, and find the branch that was asked for. Raises: NotFound."""
    database_id = yield from check_schema_flow(scope)
    if target.id is None:
        assert target.key is not None
        target.id = derive_conversation_id(database_id, scope.tenant, target.key)
    if target.wanted is not None:
        found = yield from read_flow(_branch, scope.tenant, target.id, target.wanted)
        if found is None:
            raise NotFound("branch", f"{target.wanted!r} of {target.name}", "`fork` makes one")
        target.branch, target.wanted = found, None
    return target.id


def _branch(connection: Connection, tenant: str, conversation_id: UUID, wanted: int | str) -> int | None:
    row = conversations.find(connection, tenant, conversation_id)
    return None if row is None else branches.find_branch_number(connection, row.id, wanted)


def not_found(target: ChatRef) -> NotFound:
    """Return the error for a conversation that is not there."""
    return NotFound("conversation", target.name or "(new)", "it is created by its first send")


def plan_for(scope: KitState, target: ChatRef, call: Options, row: ConversationRow | None) -> ResolvedOptions:
    """Return the settled plan: call over chat over what the chat stored over kit.

    A call that sets nothing has the plan that was settled for the same stored settings before.
    """
    settings = row.settings if row is not None else None
    known = scope.plans if target.options is NO_OPTIONS else target.plans
    plan = known.get(settings) if call is NO_OPTIONS else None
    if plan is not None:
        return plan
    plan = settle(options_for(scope, target, call, row), scope.base_url)
    if call is NO_OPTIONS:
        if len(known) >= _PLANS:
            known.clear()
        known[settings] = plan
    return plan


def options_for(scope: KitState, target: ChatRef, call: Options, row: ConversationRow | None) -> Options:
    """Return the options that hold: call over chat over what the chat stored over kit."""
    stored = Options.from_json(row.settings if row is not None else None)
    return call.over(target.options).over(stored).over(scope.options)


def given(scope: KitState, target: ChatRef, call: Options, name: str) -> Any:
    """Return an option that no chat stores: call over chat over kit, `UNSET` where none of them gives it."""
    for options in (call, target.options, scope.options):
        value = getattr(options, name)
        if value is not UNSET:
            return value
    return UNSET


def require_search(scope: KitState) -> None:
    """Raise: SettingsError when this kit keeps no search index."""
    if not scope.search:
        raise SettingsError("search", "this kit was made with search=False and indexes nothing: make one without it")
