"""List, read and update conversations.

A cursor contains a digest of the listing's filters, so that it serves no other listing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.state import ChatRef, KitState, check_schema_flow, identify_flow, not_found
from convokit.completion.write_retry import START_S, write_with_retry_flow
from convokit.domain.conversation import Conversation, ConversationRow
from convokit.domain.ids import parse_id
from convokit.domain.message import to_microseconds
from convokit.domain.paging import Page, validate_limit
from convokit.domain.text import dump_json, to_plain_json, validate_name, validate_text
from convokit.domain.turn import Turn, validate_turn_metadata
from convokit.errors import InvalidInput, NotFound
from convokit.settings import UNSET, Limits, Unset
from convokit.store import conversation_pages, conversations, search_index, turn_end
from convokit.store.conversation_pages import ListingFilter, Position


def list_conversations_flow(
    kit: KitState,
    *,
    subject: str | None,
    prefix: str | None,
    archived: bool | None,
    open: bool | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    before: str | None,
) -> Flow[Page[Conversation]]:
    """Return a page of the tenant's conversations. Raises: InvalidInput, TooLarge."""
    validate_limit(limit)
    for name, value in (("subject", subject), ("prefix", prefix)):
        if value is not None:
            validate_text(name, value, limit=kit.limits.key_chars * 4, setting="Limits.key_chars")
    if prefix == "":
        raise InvalidInput("prefix", "is empty: pass the beginning of a key, or None")
    for name, flag in (("archived", archived), ("open", open)):
        if flag is not None and not isinstance(flag, bool):
            raise InvalidInput(name, f"must be True, False or None, not {flag!r}")
    wanted = ListingFilter(
        subject=subject,
        prefix=prefix,
        archived=archived,
        open=open,
        since=None if since is None else to_microseconds("since", since),
        until=None if until is None else to_microseconds("until", until),
    )
    digest = _compute_digest(wanted)
    after = None if before is None else _decode_cursor(before, digest, by_key=prefix is not None)
    yield from check_schema_flow(kit)
    read = conversation_pages.list_with_previews
    items = yield from read_flow(read, kit.tenant, wanted, limit=limit + 1, after=after)
    following = None
    if len(items) > limit:
        last = items[limit - 1]
        following = _encode_cursor(digest, last.key if prefix is not None else last.updated_at, last.id)
    return Page[Conversation].model_construct(items=items[:limit], next=following)


def read_conversation_flow(kit: KitState, chat: ChatRef) -> Flow[Conversation | None]:
    """Return the conversation of a key or an id, None if it does not exist."""
    conversation_id = yield from identify_flow(kit, chat)
    return (yield from read_flow(conversation_pages.find_with_preview, kit.tenant, conversation_id))


@dataclass(frozen=True, slots=True)
class ConversationUpdate:
    """The validated changes of a conversation. `UNSET` keeps a value."""

    title: str | Unset | None
    subject: str | Unset | None
    metadata: dict[str, Any] | Unset | None
    """A value of None removes its key. None removes all."""
    archived: bool | Unset
    limits: Limits
    at: int

    def apply(self, row: ConversationRow) -> ConversationRow:
        """Return the row with these changes. Raises: TooLarge."""
        changed = replace(row)
        if self.title is not UNSET:
            changed.title = self.title
        if self.subject is not UNSET:
            changed.subject = self.subject
        if self.metadata is None:
            changed.metadata = None
        elif self.metadata is not UNSET:
            stored = json.loads(row.metadata) if row.metadata else {}
            kept = {name: value for name, value in stored.items() if name not in self.metadata}
            merged = {**kept, **{name: value for name, value in self.metadata.items() if value is not None}}
            text = dump_json(merged) if merged else None
            if text is not None and text != row.metadata:
                limit, setting = self.limits.metadata_bytes, "Limits.metadata_bytes"
                changed.metadata = validate_text("metadata", text, limit=limit, setting=setting)
            else:
                changed.metadata = text
        if self.archived is not UNSET:
            changed.archived_at = (row.archived_at or self.at) if self.archived else None
        return changed


def update_flow(
    kit: KitState,
    chat: ChatRef,
    *,
    title: str | Unset | None,
    subject: str | Unset | None,
    metadata: Mapping[str, Any] | Unset | None,
    archived: bool | Unset | None,
) -> Flow[Conversation]:
    """Change the description of a conversation, and return the conversation. Raises: NotFound, InvalidInput, TooLarge.

    A repeat after a lost acknowledgement writes the same values again.
    """
    for name, value in (("title", title), ("subject", subject)):
        if value is not UNSET and value is not None:
            validate_name(name, value, kit.limits.key_chars, if_empty="pass None to clear it")
    changes: dict[str, Any] | Unset | None = UNSET
    if metadata is None:
        changes = None
    elif metadata is not UNSET:
        if not isinstance(metadata, Mapping):
            raise InvalidInput("metadata", f"must be a mapping or None, not {type(metadata).__name__}")
        changes = to_plain_json("metadata", metadata)
    if archived is not UNSET and archived is not None and not isinstance(archived, bool):
        raise InvalidInput("archived", f"must be True, False or None, not {archived!r}")
    is_archived = archived if archived is UNSET else bool(archived)
    update = ConversationUpdate(title, subject, changes, is_archived, kit.limits, kit.clock.now_us())
    conversation_id = yield from identify_flow(kit, chat)

    def write(connection: Connection) -> Conversation | None:
        return _write_update(connection, kit.tenant, conversation_id, update)

    found = yield from write_with_retry_flow(
        kit, conversation_id, write, lambda connection: None, patience_s=START_S, only_transient=True
    )
    if found is None:
        raise not_found(chat)
    return found


def _write_update(
    connection: Connection, tenant: str, conversation_id: UUID, update: ConversationUpdate
) -> Conversation | None:
    conversations.lock(connection, conversation_id)
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    changed = update.apply(row)
    if changed.title != row.title:
        search_index.remove_title(connection, row.id)
        search_index.add_title(connection, changed)
    if changed != row:
        conversations.update_description(connection, changed)
    return conversation_pages.find_with_preview(connection, tenant, conversation_id)


def update_turn_metadata_flow(kit: KitState, chat: ChatRef, turn: Turn | UUID | str, metadata: Any) -> Flow[None]:
    """Replace the metadata of a turn. Raises: NotFound, InvalidInput, TooLarge."""
    text = None if metadata is None else validate_turn_metadata("metadata", metadata, kit.limits)
    conversation_id = yield from identify_flow(kit, chat)
    turn_id = turn.id if isinstance(turn, Turn) else parse_id(turn, "turn")

    def write(connection: Connection) -> bool:
        conversations.lock(connection, conversation_id)
        if conversations.find(connection, kit.tenant, conversation_id) is None:
            return False
        return turn_end.update_metadata(connection, conversation_id, turn_id, text)

    found = yield from write_with_retry_flow(
        kit, conversation_id, write, lambda connection: None, patience_s=START_S, only_transient=True
    )
    if not found:
        raise NotFound("turn", turn_id)


def _compute_digest(wanted: ListingFilter) -> str:
    parts = [wanted.subject, wanted.prefix, wanted.archived, wanted.open, wanted.since, wanted.until]
    return hashlib.sha256(dump_json(parts).encode()).hexdigest()[:16]


def _encode_cursor(digest: str, position: str | datetime | None, conversation_id: UUID) -> str:
    place = to_microseconds("updated_at", position) if isinstance(position, datetime) else position
    return base64.urlsafe_b64encode(dump_json([digest, place, str(conversation_id)]).encode()).decode()


def _decode_cursor(given: object, digest: str, *, by_key: bool) -> Position:
    try:
        found, place, conversation_id = json.loads(base64.urlsafe_b64decode(given.encode()))  # type: ignore[attr-defined]
        last = UUID(conversation_id)
        if found != digest:
            raise ValueError(found)
        if by_key and isinstance(place, str):
            return validate_text("before", place, limit=len(place) * 4, setting="")
        if not by_key and type(place) is int and 0 <= place < 2**63:
            return place, last
        raise ValueError(place)
    except (ValueError, TypeError, AttributeError, binascii.Error, RecursionError, InvalidInput):
        raise InvalidInput(
            "before", "is not a cursor of this listing: pass a page's `next` and repeat the filters"
        ) from None
