"""Hold the settings and identity of a kit and a chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from convokit.completion.effects import Clock, Flow, read_flow, read_once_flow
from convokit.completion.notifier import Notifier
from convokit.completion.options import NO_OPTIONS, Options
from convokit.completion.process_turns import RunningTurns, WaitingLines
from convokit.completion.resolved_options import ResolvedOptions, resolve
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.errors import NotFound, ReadOnly, SettingsError
from convokit.settings import UNSET, Limits, Timeouts
from convokit.store import conversations, message_tree, migrations
from convokit.wire.headers import build_endpoint_url

Result = TypeVar("Result")
ResolvedCache = dict[str | None, ResolvedOptions]
"""Resolved options by the settings that the conversation stores."""
_CACHE_SIZE = 256
DEFAULT_TIMEOUTS = Timeouts()


@dataclass(slots=True)
class DatabaseIdentity:
    """A database: its name for people, and its id after the schema was checked."""

    name: str
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class KitState:
    """A kit: one tenant of one database, one server, and the settings that chats and calls may override."""

    tenant: str
    database: DatabaseIdentity
    base_url: str
    api_key: Callable[[], str | None]
    options: Options
    limits: Limits
    owner: Callable[[], str]
    """Returns the name of this worker: host, boot, process, start."""
    is_alive: Callable[[str, UUID], bool | None]
    """Returns whether the owner of a turn still runs it; None if that cannot be known."""
    has_local_clock: bool
    """Whether leases are measured by this machine's clock, which may jump, and not by a server's."""
    search: bool = True
    """Whether messages enter the search index, and can be searched."""
    read_only: bool = False
    """Whether the kit refuses every write."""
    running: RunningTurns = field(default_factory=RunningTurns)
    """The turns that this process is running."""
    lines: WaitingLines = field(default_factory=WaitingLines)
    """The senders of this process that wait for a branch."""
    notifier: Notifier | None = None
    """Calls the observers. None without observers."""
    url: str = field(init=False)
    """The endpoint of calls, below `base_url`."""
    resolved: ResolvedCache = field(default_factory=dict, repr=False, compare=False)
    """For chats and calls that set nothing themselves."""
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", build_endpoint_url(self.base_url))


@dataclass(slots=True)
class ChatRef:
    """A chat: its conversation, its branch, and the settings given to the handle."""

    key: str | None = None
    id: UUID | None = None
    branch: int = 0
    unresolved_branch: int | str | None = None
    """The number or name of a branch, before it was looked up."""
    subject: str | None = None
    title: str | None = None
    metadata: str | None = None
    options: Options = NO_OPTIONS
    must_exist: bool = False
    """Whether the chat was opened by id. Nothing is created under an id that another tenant may have."""
    resolved: ResolvedCache = field(default_factory=dict, repr=False, compare=False)
    """For calls that set nothing themselves, of a chat that does."""

    @property
    def name(self) -> object:
        """The name of the chat for people: its key, else its id."""
        return self.key if self.key is not None else self.id


def check_schema_flow(kit: KitState) -> Flow[UUID]:
    """Return the database's id, after checking once for each kit that tables and code fit. Raises: SchemaOutdated."""
    if kit.database.id is None:
        kit.database.id = yield from read_once_flow(migrations.check_schema, kit.database.name)
    return kit.database.id


def identify_flow(kit: KitState, chat: ChatRef) -> Flow[UUID]:
    """Return the conversation's id, and look up the branch that was asked for. Raises: NotFound."""
    database_id = yield from check_schema_flow(kit)
    if chat.id is None:
        assert chat.key is not None
        chat.id = derive_conversation_id(database_id, kit.tenant, chat.key)
    if chat.unresolved_branch is not None:
        number = yield from read_flow(message_tree.find_branch_number, kit.tenant, chat.id, chat.unresolved_branch)
        if number is None:
            raise NotFound("branch", f"{chat.unresolved_branch!r} of {chat.name}", "`fork` makes one")
        chat.branch, chat.unresolved_branch = number, None
    return chat.id


def find_conversation_flow(kit: KitState, chat: ChatRef) -> Flow[ConversationRow]:
    """Return the chat's conversation. Raises: NotFound."""
    conversation_id = yield from identify_flow(kit, chat)
    row = yield from read_flow(conversations.find, kit.tenant, conversation_id)
    if row is None:
        raise not_found(chat)
    return row


def find_listed_conversation_flow(kit: KitState, chat: ChatRef) -> Flow[ConversationRow | None]:
    """Return the conversation that a listing reads; None for a key that was never used. Raises: NotFound."""
    conversation_id = yield from identify_flow(kit, chat)
    row = yield from read_flow(conversations.find, kit.tenant, conversation_id)
    if row is None and not is_unused_key(chat):
        raise not_found(chat)
    return row


def is_unused_key(chat: ChatRef) -> bool:
    """Return whether a conversation that does not exist is an empty one: the chat was opened by key, on the main branch."""
    return not chat.must_exist and not chat.branch


def not_found(chat: ChatRef) -> NotFound:
    """Return the error for a conversation that does not exist."""
    return NotFound("conversation", chat.name or "(new)", "it is created by its first send")


def resolve_options(
    kit: KitState, chat: ChatRef, call_options: Options, row: ConversationRow | None
) -> ResolvedOptions:
    """Return the options of a call: the call's own, then the chat's, then those that the conversation stores, then the kit's.

    Options that were resolved before are reused where the call sets nothing.
    """
    settings = row.settings if row is not None else None
    cache = kit.resolved if chat.options is NO_OPTIONS else chat.resolved
    if call_options is NO_OPTIONS and settings in cache:
        return cache[settings]
    resolved = resolve(merge_options(kit, chat, call_options, row), kit.base_url)
    if call_options is NO_OPTIONS:
        if len(cache) >= _CACHE_SIZE:
            cache.clear()
        cache[settings] = resolved
    return resolved


def merge_options(kit: KitState, chat: ChatRef, call_options: Options, row: ConversationRow | None) -> Options:
    """Return the options of a call before defaults are filled in."""
    stored = Options.from_json(row.settings if row is not None else None)
    return call_options.over(chat.options).over(stored).over(kit.options)


def find_option(kit: KitState, chat: ChatRef, call_options: Options, name: str) -> Any:
    """Return an option that no conversation stores, `UNSET` if neither call, chat nor kit set it."""
    for options in (call_options, chat.options, kit.options):
        value = getattr(options, name)
        if value is not UNSET:
            return value
    return UNSET


def find_response_type(kit: KitState, chat: ChatRef, call_options: Options) -> Any:
    """Return the type that the call's replies are parsed into, None without one. A conversation stores none."""
    given = call_options.over(chat.options).over(kit.options).params.get("response_format")
    return None if isinstance(given, Mapping) else given


def find_timeouts(kit: KitState, chat: ChatRef, call_options: Options) -> Timeouts:
    """Return the timeouts that apply before the conversation is read: a conversation stores none."""
    timeouts = find_option(kit, chat, call_options, "timeouts")
    return DEFAULT_TIMEOUTS if timeouts is UNSET else timeouts


def require_writable(kit: KitState, action: str) -> None:
    """Raise: ReadOnly if this kit refuses writes. `action` is the name of the method."""
    if kit.read_only:
        raise ReadOnly(kit.database.name, action)


def require_search(kit: KitState) -> None:
    """Raise: SettingsError if this kit keeps no search index."""
    if not kit.search:
        raise SettingsError(
            "search", "this kit was made with search=False and has no search index: make one without it"
        )
