"""The flows that only read: messages, the context that would be sent, listings, verification."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.state import ChatRef, KitState, check_schema_flow, identify_flow, not_found
from convokit.domain.conversation import Conversation, Page
from convokit.domain.ids import parse_message_seq
from convokit.domain.message import Message
from convokit.domain.paging import validate_limit
from convokit.domain.text import validate_text
from convokit.errors import InvalidInput
from convokit.store import branches, conversations, messages

Result = TypeVar("Result")


def listing(
    scope: KitState, target: ChatRef, *, limit: int, before: str | int | None, passages: bool
) -> Flow[list[Message]]:
    """Return the newest `limit` messages of the chat's path, oldest first; `before` goes further back."""
    validate_limit(limit)
    conversation_id = yield from identify_flow(scope, target)
    last = None if before is None else parse_message_seq(conversation_id, before)
    found = yield from read_flow(_page, scope.tenant, target, conversation_id, last, limit, passages)
    if found is None:
        raise not_found(target)
    return found


def _page(
    connection: Connection,
    tenant: str,
    target: ChatRef,
    conversation_id: UUID,
    before: int | None,
    limit: int,
    passages: bool,
) -> list[Message] | None:
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    last = branches.read_head(connection, row, target.branch)
    if before is not None:
        marked = messages.find(connection, conversation_id, before)
        last = None if marked is None else marked.parent_seq
    rows = messages.read_page(connection, conversation_id, last, limit, passages=passages)
    return [Message.of(conversation_id, each) for each in rows]


def recent(scope: KitState, *, subject: str | None, limit: int, before: str | None) -> Flow[Page[Conversation]]:
    """Return a page of the tenant's conversations, the last used first."""
    validate_limit(limit)
    cursor = None if before is None else _cursor(before)
    if subject is not None:
        validate_text("subject", subject, limit=scope.limits.key_chars * 4, setting="Limits.key_chars")
    yield from check_schema_flow(scope)
    rows = yield from read_flow(
        conversations.list_recent, scope.tenant, subject=subject, limit=limit + 1, before=cursor
    )
    items = [Conversation.of(row) for row in rows[:limit]]
    more = len(rows) > limit
    following = _encode(rows[limit - 1].updated_at, rows[limit - 1].id) if more else None
    return Page[Conversation].model_construct(items=items, next=following)


def _encode(updated_at: int, conversation_id: UUID) -> str:
    return base64.urlsafe_b64encode(f"{updated_at}:{conversation_id}".encode()).decode()


def _cursor(value: str) -> tuple[int, UUID]:
    try:
        updated_at, _, conversation_id = base64.urlsafe_b64decode(value.encode()).decode().partition(":")
        cursor = int(updated_at), UUID(conversation_id)
        if not 0 <= cursor[0] < 2**63:
            raise ValueError(updated_at)
        return cursor
    except (ValueError, binascii.Error, AttributeError):
        raise InvalidInput("before", "is not a cursor of this listing: pass the page's `next`") from None


def of_tenant(scope: KitState, function: Callable[[Connection, str], Result]) -> Flow[Result]:
    """Run a reading function over everything of the tenant."""
    yield from check_schema_flow(scope)
    return (yield from read_flow(function, scope.tenant))


def over(scope: KitState, target: ChatRef, function: Callable[[Connection, str, UUID], Result | None]) -> Flow[Result]:
    """Run a reading function over the chat's conversation. Raises: NotFound when it returns None."""
    conversation_id = yield from identify_flow(scope, target)
    found = yield from read_flow(function, scope.tenant, conversation_id)
    if found is None:
        raise not_found(target)
    return found


def on_branch(
    scope: KitState, target: ChatRef, function: Callable[[Connection, str, UUID, int], Result | None]
) -> Flow[Result]:
    """Run a reading function over the chat's conversation and branch. Raises: NotFound when it returns None."""
    conversation_id = yield from identify_flow(scope, target)
    found = yield from read_flow(function, scope.tenant, conversation_id, target.branch)
    if found is None:
        raise not_found(target)
    return found
