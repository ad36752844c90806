"""The flows that only read: messages, the context that would be sent, listings, verification."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion import summary
from convokit.completion.effects import Flow, read
from convokit.completion.options import Options
from convokit.completion.plans import plan_for
from convokit.completion.prepare import assemble_seen, last_reply, look
from convokit.completion.scope import Scope, Target, identify, missing, ready
from convokit.context.report import Context, LastCall, Report
from convokit.domain.conversation import Conversation, Page
from convokit.domain.ids import message_seq
from convokit.domain.message import Message
from convokit.domain.parts import Content, checked_passages, checked_question
from convokit.domain.text import checked
from convokit.errors import InvalidInput, SettingsError
from convokit.store import conversations, messages, usage

MAX_PAGE = 1000
Result = TypeVar("Result")


def listing(
    scope: Scope, target: Target, *, limit: int, before: str | int | None, passages: bool
) -> Flow[list[Message]]:
    """Return the newest `limit` messages of the chat's path, oldest first; `before` goes further back."""
    check_limit(limit)
    conversation_id = yield from identify(scope, target)
    last = None if before is None else message_seq(conversation_id, before)
    found = yield from read(_page, scope.tenant, target, conversation_id, last, limit, passages)
    if found is None:
        raise missing(target)
    return found


def _page(
    connection: Connection,
    tenant: str,
    target: Target,
    conversation_id: UUID,
    before: int | None,
    limit: int,
    passages: bool,
) -> list[Message] | None:
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    last = conversations.head(connection, row, target.branch)
    if before is not None:
        marked = messages.get(connection, conversation_id, before)
        last = None if marked is None else marked.parent_seq
    rows = messages.page(connection, conversation_id, last, limit, passages=passages)
    return [Message.of(conversation_id, each) for each in rows]


def context(scope: Scope, target: Target, given: object, passages: Sequence[str], call: Options) -> Flow[Context]:
    """Return what `send(given)` would send, or with None what the last turn's window holds now. No call is made."""
    if given is None and checked_passages(passages, scope.limits):
        raise InvalidInput("context", "belongs to a question, and none was given")
    content = None if given is None else checked_question(given, passages, scope.limits)
    seen = yield from look(scope, target, call, content or Content(""))
    if seen.conversation is None and given is None:
        raise missing(target)
    plan = plan_for(scope, target, call, seen.conversation)
    found = assemble_seen(plan, seen, None if given is None else content)
    if given is not None:
        found = summary.announced(plan, seen, found)
    reply = last_reply(reversed(seen.path.rows))
    if seen.conversation is None or reply is None or reply.turn_id is None:
        return found
    last = yield from read(usage.last_call, seen.conversation.id, reply.turn_id)
    return found if last is None else found.model_copy(update={"report": _beside(found.report, last)})


def _beside(report: Report, call: usage.AnsweredCall) -> Report:
    """Return the report with what the path's last call took from the cache, in the server's own counts."""
    reported = call.usage_source == "reported"
    last = LastCall(
        expected_tokens=json.loads(call.manifest).get("stable", 0),
        prompt_tokens=call.prompt_tokens if reported else None,
        cached_tokens=call.cached_tokens if reported else None,
    )
    return report.model_copy(update={"last_call": last})


def recent(scope: Scope, *, subject: str | None, limit: int, before: str | None) -> Flow[Page[Conversation]]:
    """Return a page of the tenant's conversations, the last used first."""
    check_limit(limit)
    cursor = None if before is None else _cursor(before)
    if subject is not None:
        checked("subject", subject, limit=scope.limits.key_chars * 4, setting="Limits.key_chars")
    yield from ready(scope)
    rows = yield from read(conversations.recent, scope.tenant, subject=subject, limit=limit + 1, before=cursor)
    items = [Conversation.of(row) for row in rows[:limit]]
    more = len(rows) > limit
    following = _encode(rows[limit - 1].updated_at, rows[limit - 1].id) if more else None
    return Page[Conversation].model_construct(items=items, next=following)


def check_limit(limit: int) -> None:
    """Raise: InvalidInput unless `limit` is a page's size."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
        raise InvalidInput("limit", f"must be a whole number from 1 to {MAX_PAGE:,}, not {limit!r}")


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


def of_tenant(scope: Scope, function: Callable[[Connection, str], Result]) -> Flow[Result]:
    """Run a reading function over everything of the tenant."""
    yield from ready(scope)
    return (yield from read(function, scope.tenant))


def over(scope: Scope, target: Target, function: Callable[[Connection, str, UUID], Result | None]) -> Flow[Result]:
    """Run a reading function over the chat's conversation. Raises: NotFound when it returns None."""
    conversation_id = yield from identify(scope, target)
    found = yield from read(function, scope.tenant, conversation_id)
    if found is None:
        raise missing(target)
    return found


def searched(scope: Scope, function: Callable[[Connection, str], Result]) -> Flow[Result]:
    """Run a reading function over the tenant's messages. Raises: SettingsError when nothing of them is indexed."""
    check_indexed(scope)
    yield from ready(scope)
    return (yield from read(function, scope.tenant))


def check_indexed(scope: Scope) -> None:
    """Raise: SettingsError when this kit keeps no search index."""
    if not scope.search:
        raise SettingsError("search", "this kit was made with search=False and indexes nothing: make one without it")


def on_branch(
    scope: Scope, target: Target, function: Callable[[Connection, str, UUID, int], Result | None]
) -> Flow[Result]:
    """Run a reading function over the chat's conversation and branch. Raises: NotFound when it returns None."""
    conversation_id = yield from identify(scope, target)
    found = yield from read(function, scope.tenant, conversation_id, target.branch)
    if found is None:
        raise missing(target)
    return found
