"""Showing an API call again: its request put together from its manifest, and checked against the digest of what was sent.

Nothing is stored twice: messages, developer prompt, tools and binaries are read where they are, and rendered by the code that
rendered them then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit.verify import verify
from convokit.context.arrange import arrange_messages
from convokit.context.strategy import Item
from convokit.context.summary import format_transcript
from convokit.context.validity import mark_partial
from convokit.domain import hashchain as chains
from convokit.domain.content import Blob, blob_digests, inline_blobs
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import parse_id
from convokit.domain.message import ASSISTANT, TOOL, USER, MessageRow, to_datetime
from convokit.domain.replay import Manifest, Replay, ReplayStatus, TurnLike, compute_prompt_digest
from convokit.domain.turn import CallRow, Reply, Turn
from convokit.errors import ChainBroken, ConvokitError, InvalidInput, NotFound
from convokit.store import api_calls, blobs, branches, conversations, messages, removal_records, turns
from convokit.wire.messages import to_wire_messages
from convokit.wire.request import RENDERER, RenderedRequest, render_request

Place = tuple[UUID | None, int | None]
"""Which call is meant: a turn (None: the newest), and a call's number (None: the last that was answered)."""
_PAGE = 500
_MOST_NAMED = 5
"""Of an erased conversation, every message was removed."""


@dataclass(slots=True, repr=False)
class Rebuilt:
    """A request that was put together again, and what it is made of."""

    call: CallRow
    status: ReplayStatus = "mismatch"
    manifest: Manifest | None = None
    rows: list[MessageRow] = field(default_factory=list)
    blobs: dict[bytes, Blob] = field(default_factory=dict)
    prompt: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    data: bytes | None = None
    removed: list[str] = field(default_factory=list)
    """What was taken out since, in words."""
    wrong: list[str] = field(default_factory=list)
    """What is not as it was, in words."""

    @property
    def value(self) -> Replay:
        """What users see of it."""
        found = self.wrong if self.status == "mismatch" else self.removed
        return Replay.model_construct(
            status=self.status,
            turn_id=self.call.turn_id,
            call=self.call.number,
            model=self.call.requested_model,
            started_at=to_datetime(self.call.started_at),
            body=self.data if self.status == "exact" else None,
            messages=self.messages,
            parameters=self.parameters,
            problem=None if self.status == "exact" else _listed(found),
        )


def _listed(found: list[str]) -> str:
    more = f"; and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
    return "; ".join(found[:_MOST_NAMED]) + more


def place(turn: TurnLike | None, call: int | None = None) -> Place:
    """Return which call is meant. Raises: InvalidInput."""
    if call is not None and (isinstance(call, bool) or not isinstance(call, int) or call < 1):
        raise InvalidInput("call", f"must be a call's number, from 1 up, not {call!r}")
    if isinstance(turn, Replay):
        return turn.turn_id, turn.call if call is None else call
    if isinstance(turn, Turn | Reply):
        return (turn.id if isinstance(turn, Turn) else turn.turn_id), call
    return (None if turn is None else parse_id(turn, "turn")), call


def replay(meant: Place) -> Callable[[Connection, str, UUID, int], Replay | None]:
    """Return the function that shows a call again; of the branch's newest turn, where none is named."""
    return partial(_replay, meant)


def _replay(meant: Place, connection: Connection, tenant: str, conversation_id: UUID, branch: int) -> Replay | None:
    row = conversations.find(connection, tenant, conversation_id)
    return None if row is None else rebuilt(connection, row, find_call(connection, row, branch, meant)).value


def find_call(connection: Connection, row: ConversationRow, branch: int, meant: Place) -> CallRow:
    """Return the call that is meant. Raises: NotFound."""
    turn_id, number = meant
    if turn_id is None:
        turn_id = _newest_turn(connection, row, branch)
    elif turns.find(connection, row.id, turn_id) is None:
        raise NotFound("turn", turn_id)
    made = api_calls.list_calls(connection, row.id, turn_id)
    if not made:
        raise NotFound("API call", f"of turn {turn_id}", "none was made, or it is no longer stored")
    if number is None:
        answered = [call for call in made if call.state == "ok"]
        return (answered or made)[-1]
    for call in made:
        if call.number == number:
            return call
    raise NotFound("API call", number, f"the turn has {', '.join(str(call.number) for call in made)}")


def _newest_turn(connection: Connection, row: ConversationRow, branch: int) -> UUID:
    def enough(rows: list[MessageRow]) -> int:
        return 0 if any(each.turn_id is not None for each in rows) else len(rows)

    path = messages.read_backwards(connection, row.id, branches.read_head(connection, row, branch), enough)
    for each in reversed(path.rows):
        if each.turn_id is not None:
            return each.turn_id
    raise NotFound("turn", "to replay", "no message of this chat belongs to one")


def rebuilt(connection: Connection, row: ConversationRow, call: CallRow) -> Rebuilt:
    """Return a call's request as what is stored now gives it."""
    made = Rebuilt(call)
    try:
        _gather(connection, row, made)
    except ValueError as error:  # what an altered row holds may be anything
        made.wrong.append(f"the call's manifest cannot be read: {error}")
        return made
    if call.body_salt is None:
        made.removed.append("the salt of the request's digest was removed, so it cannot be checked")
    rendered = _rendered(made)
    if rendered is not None and call.body_salt is not None and not made.removed:
        digest = chains.compute_salted_digest(bytes(call.body_salt), rendered.data)
        if digest == bytes(call.body_digest):
            made.status, made.data = "exact", rendered.data
            return made
    if made.removed and not made.wrong:
        made.status = "redacted"
    elif not made.wrong:
        made.wrong.append(_found_by_chain(connection, row))
    return made


def _gather(connection: Connection, row: ConversationRow, made: Rebuilt) -> None:
    """Read what the manifest names. Raises: ValueError."""
    manifest = made.manifest = Manifest.of(made.call.manifest)
    if manifest.renderer != RENDERER:
        raise ValueError(f"it is of version {manifest.renderer}, this code knows {RENDERER}")
    seqs = manifest.seqs(row.last_seq)
    found: dict[int, MessageRow] = {}
    for at in range(0, len(seqs), _PAGE):
        found |= {each.seq: each for each in messages.read_many(connection, row.id, seqs[at : at + _PAGE])}
    made.rows = [found[seq] for seq in seqs if seq in found]
    made.wrong += [f"message {seq} is missing" for seq in seqs if seq not in found]
    _gather_redacted(connection, row.id, made)
    made.prompt = _text(connection, row.tenant, manifest.prompt, "the developer prompt", made)
    if made.prompt is None and manifest.prompt is not None:
        made.prompt = "[redacted: developer prompt]"
    tools = _text(connection, row.tenant, manifest.tools, "the set of tools", made)
    made.tools = json.loads(tools) if tools else []
    _gather_blobs(connection, row.id, made)


def _gather_redacted(connection: Connection, conversation_id: UUID, made: Rebuilt) -> None:
    """Tell what was redacted from what only looks like it: a redaction has its entry in the chain."""
    seqs = [each.seq for each in made.rows if each.status == "redacted"]
    refs = removal_records.read_removed_refs(connection, conversation_id) if seqs else set()
    for seq in seqs:
        if "*" in refs or f"message:{seq}" in refs:
            made.removed.append(f"message {seq} was redacted")
        else:
            made.wrong.append(f"message {seq} looks redacted, but no redaction of it was entered")


def _text(connection: Connection, tenant: str, digest: bytes | None, what: str, made: Rebuilt) -> str | None:
    if digest is None:
        return None
    text = blobs.find_prompt(connection, tenant, digest)
    if text is None:
        made.removed.append(f"{what} of this request was erased")
    elif compute_prompt_digest(text) != digest:
        made.wrong.append(f"{what} of this request is not the one that was sent")
        return None
    return text


def _gather_blobs(connection: Connection, conversation_id: UUID, made: Rebuilt) -> None:
    named = {digest: each.seq for each in made.rows if each.parts is not None for digest in blob_digests(each.parts)}
    made.blobs = blobs.read_blobs(connection, conversation_id, named) if named else {}
    for digest, blob in made.blobs.items():
        if Blob.of(blob.media_type, blob.data).digest != digest:
            made.wrong.append(f"an attachment of message {named[digest]} is not what was sent")
    made.wrong += [
        f"an attachment of message {seq} is missing" for digest, seq in named.items() if digest not in made.blobs
    ]


def _rendered(made: Rebuilt) -> RenderedRequest | None:
    """Put the request together; None where the rows give none."""
    manifest, call = made.manifest, made.call
    assert manifest is not None
    now = call.started_at / 1_000_000 if manifest.at is None else manifest.at
    try:
        items = [_item(made.rows, index, manifest) for index in range(len(made.rows))]
        if manifest.transcript:
            text = format_transcript([item.shape for item in items])
            items = [Item(0, {"role": USER, "content": text}, 0, 0)]
        shapes, _, _ = arrange_messages(items, made.prompt, manifest.profile, manifest.partial)
        made.messages = to_wire_messages(
            inline_blobs(shapes, made.blobs), manifest.profile, unsupported=manifest.unsupported, now=now
        )
        rendered = render_request(
            model=call.requested_model,
            messages=made.messages,
            params=manifest.params,
            profile=manifest.profile,
            stream=manifest.stream,
            tools=made.tools,
            mode=manifest.mode,
        )
    except (ConvokitError, ValueError, KeyError, TypeError, AttributeError) as error:
        made.wrong.append(f"what is stored gives no request that could be sent ({type(error).__name__})")
        return None
    made.parameters = {name: value for name, value in rendered.body.items() if name not in ("model", "messages")}
    return rendered


def _item(rows: Sequence[MessageRow], index: int, manifest: Manifest) -> Item:
    row = rows[index]
    if row.status == "redacted":
        return Item(row.seq, _placeholder(rows, index), 0, 0)
    shape = row.as_wire()
    if row.status == "partial" and manifest.partial == "mark":
        shape = mark_partial(shape)
    return Item(row.seq, shape, 0, 0, row.status)


def _placeholder(rows: Sequence[MessageRow], index: int) -> dict[str, Any]:
    """Return what is shown in a redacted message's place. The results of calls that went with it need calls to stand behind."""
    row = rows[index]
    shape: dict[str, Any] = {"role": row.role, "content": f"[redacted: message {row.seq}]"}
    if row.tool_call_id is not None:
        shape["tool_call_id"] = row.tool_call_id
    calls = []
    for each in rows[index + 1 :]:
        if row.role != ASSISTANT or each.role != TOOL:
            break
        calls.append({"id": each.tool_call_id, "type": "function", "function": {"name": "redacted", "arguments": "{}"}})
    return {**shape, "tool_calls": calls} if calls else shape


def _found_by_chain(connection: Connection, row: ConversationRow) -> str:
    """Return what differs, where the rows can be read but give other bytes."""
    try:
        verify(connection, row.tenant, row.id)
    except ChainBroken as error:
        return f"what is stored is not what was sent: {error}"
    return "what is stored gives other bytes than were sent, although its chain is whole"
