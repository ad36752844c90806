"""Rebuild the request of an API call and compare its digest.

A call stores a manifest, not its request. Messages, developer prompt, tools and binaries are read from their own tables. The
code that rendered the request renders it again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit.call_selection import CallSelector, find_selected_call, select_call
from convokit.audit.verify import verify_conversation
from convokit.completion.effects import Flow, read_flow
from convokit.completion.saved_reply import TurnLike
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found
from convokit.context.arrange import arrange_messages
from convokit.context.strategy import Item
from convokit.context.summary import format_transcript
from convokit.context.validity import mark_partial
from convokit.domain import hashchain
from convokit.domain.content import Blob, find_blob_digests, inline_blobs
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, TOOL, USER, MessageRow, to_datetime
from convokit.domain.removal import EVERYTHING
from convokit.domain.stored_request import Manifest, Replay, ReplayStatus, compute_prompt_digest
from convokit.domain.turn import CallRow
from convokit.errors import ChainBroken, ConvokitError
from convokit.store import blobs, conversations, messages, removal_records
from convokit.wire.message_encoding import to_wire_messages
from convokit.wire.request import RENDERER, RenderedRequest, render_request

_PAGE = 10_000
"""SQLite takes at most 32,766 values for a statement."""
_MAX_LISTED = 5  # problems in one text: of an erased conversation, every message was redacted


@dataclass(slots=True, repr=False)
class RebuiltRequest:
    """A request as the stored rows give it, with the rows."""

    call: CallRow
    status: ReplayStatus = "mismatch"
    manifest: Manifest | None = None
    sent: list[int] = field(default_factory=list)
    """The seqs of the messages that were sent, in order."""
    rows: list[MessageRow] = field(default_factory=list)
    blobs: dict[bytes, Blob] = field(default_factory=dict)
    prompt: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    seqs: list[int | None] = field(default_factory=list)
    """The seq of each of `messages`; None for the developer prompt. Empty if messages were merged."""
    parameters: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    removals: list[str] = field(default_factory=list)
    """A sentence for each part that was redacted or erased."""
    mismatches: list[str] = field(default_factory=list)
    """A sentence for each part that differs from what was sent."""

    def parse_manifest(self, last_seq: int) -> None:
        """Parse the stored manifest. Raises: ValueError."""
        manifest = Manifest.from_json(self.call.manifest)
        if not 1 <= manifest.renderer <= RENDERER:
            raise ValueError(f"it has version {manifest.renderer}, this code renders versions 1 to {RENDERER}")
        self.manifest, self.sent = manifest, manifest.list_seqs(last_seq)

    def to_replay(self) -> Replay:
        """Return the value that users see."""
        problems = self.mismatches if self.status == "mismatch" else self.removals
        return Replay.model_construct(
            status=self.status,
            turn_id=self.call.turn_id,
            call=self.call.number,
            model=self.call.requested_model,
            started_at=to_datetime(self.call.started_at),
            body=self.body if self.status == "exact" else None,
            messages=self.messages,
            seqs=self.seqs,
            prompt=None if self.manifest is None or self.manifest.prompt is None else self.manifest.prompt.hex(),
            parameters=self.parameters,
            problem=None if self.status == "exact" else _join_problems(problems),
        )


def _join_problems(problems: list[str]) -> str:
    more = f"; and {len(problems) - _MAX_LISTED:,} more" if len(problems) > _MAX_LISTED else ""
    return "; ".join(problems[:_MAX_LISTED]) + more


def replay_flow(kit: KitState, chat: ChatRef, turn: TurnLike | None, call: int | None) -> Flow[Replay]:
    """Rebuild the request of a call; without `turn`, of the branch's newest turn. Raises: InvalidInput, NotFound."""
    selector = select_call(turn, call)
    conversation_id = yield from identify_flow(kit, chat)
    replay = yield from read_flow(_read_replay, kit.tenant, conversation_id, chat.branch, selector)
    if replay is None:
        raise not_found(chat)
    return replay


def _read_replay(
    connection: Connection, tenant: str, conversation_id: UUID, branch: int, selector: CallSelector
) -> Replay | None:
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    return rebuild_request(connection, row, find_selected_call(connection, row, branch, selector).call).to_replay()


def rebuild_request(connection: Connection, row: ConversationRow, call: CallRow) -> RebuiltRequest:
    """Return the request that the stored rows give; its status tells whether it is the one that was sent."""
    return rebuild_requests(connection, row, [call])[0]


def rebuild_requests(connection: Connection, row: ConversationRow, calls: Sequence[CallRow]) -> list[RebuiltRequest]:
    """Return the requests of several calls. Their parts are read together."""
    requests = [RebuiltRequest(call) for call in calls]
    for request in requests:
        try:
            request.parse_manifest(row.last_seq)
        except ValueError as error:  # an altered row may hold anything
            request.mismatches.append(f"the call's manifest cannot be read: {error}")
    parts = _read_parts(connection, row, [request for request in requests if not request.mismatches])
    for request in requests:
        if not request.mismatches:
            _rebuild(connection, row, request, parts)
    return requests


def _rebuild(connection: Connection, row: ConversationRow, request: RebuiltRequest, parts: _Parts) -> None:
    """Build a request from its parts, and compare it with what was sent."""
    call = request.call
    try:
        _assign_parts(request, parts)
    except ValueError as error:
        request.mismatches.append(f"the call's manifest cannot be read: {error}")
        return
    if call.body_salt is None:
        request.removals.append("the salt of the request's digest was erased, so the request cannot be checked")
    rendered = _render(request)
    if rendered is not None and call.body_salt is not None and not request.removals:
        digest = hashchain.compute_salted_digest(bytes(call.body_salt), rendered.data)
        if digest == bytes(call.body_digest):
            request.status, request.body = "exact", rendered.data
            return
    if request.removals and not request.mismatches:
        request.status = "redacted"
    elif not request.mismatches:
        request.mismatches.append(_explain_mismatch(connection, row))


@dataclass(slots=True, repr=False)
class _Parts:
    """The stored parts of several requests."""

    rows: dict[int, MessageRow] = field(default_factory=dict)
    removed_refs: set[str] = field(default_factory=set)
    prompts: dict[bytes, str] = field(default_factory=dict)
    blobs: dict[bytes, Blob] = field(default_factory=dict)


def _read_parts(connection: Connection, row: ConversationRow, requests: Sequence[RebuiltRequest]) -> _Parts:
    """Read the rows that the manifests name."""
    parts = _Parts()
    seqs = sorted({seq for request in requests for seq in request.sent})
    for start in range(0, len(seqs), _PAGE):
        rows = messages.read_many(connection, row.id, seqs[start : start + _PAGE])
        parts.rows |= {each.seq: each for each in rows}
    if any(each.status == "redacted" for each in parts.rows.values()):
        parts.removed_refs = removal_records.read_removed_refs(connection, row.id)
    manifests = [request.manifest for request in requests if request.manifest is not None]
    digests = {digest for each in manifests for digest in (each.prompt, each.tools) if digest is not None}
    if digests:
        parts.prompts = blobs.find_prompts(connection, row.tenant, sorted(digests))
    references = {digest for each in parts.rows.values() if each.parts for digest in find_blob_digests(each.parts)}
    if references:
        parts.blobs = blobs.read_blobs(connection, row.id, sorted(references))
    return parts


def _assign_parts(request: RebuiltRequest, parts: _Parts) -> None:
    """Give a request its parts, and report those that are missing or altered. Raises: ValueError."""
    manifest = request.manifest
    assert manifest is not None
    request.rows = [parts.rows[seq] for seq in request.sent if seq in parts.rows]
    request.mismatches += [f"message {seq} is missing" for seq in request.sent if seq not in parts.rows]
    _check_redactions(request, parts.removed_refs)
    request.prompt = _check_prompt(parts.prompts, manifest.prompt, "the developer prompt", request)
    if request.prompt is None and manifest.prompt is not None:
        request.prompt = "[redacted: developer prompt]"
    tools = _check_prompt(parts.prompts, manifest.tools, "the set of tools", request)
    request.tools = json.loads(tools) if tools else []
    _assign_blobs(request, parts.blobs)


def _check_redactions(request: RebuiltRequest, refs: Collection[str]) -> None:
    for seq in (each.seq for each in request.rows if each.status == "redacted"):
        if EVERYTHING in refs or f"message:{seq}" in refs:
            request.removals.append(f"message {seq} was redacted")
        else:  # a row can be emptied by anybody; a lawful redaction has an entry in the chain
            request.mismatches.append(f"message {seq} is marked as redacted, but the chain has no redaction of it")


def _check_prompt(prompts: Mapping[bytes, str], digest: bytes | None, name: str, request: RebuiltRequest) -> str | None:
    """Return the text under a digest, and report if it was erased or altered."""
    if digest is None:
        return None
    text = prompts.get(digest)
    if text is None:
        request.removals.append(f"{name} of this request was erased")
    elif compute_prompt_digest(text) != digest:
        request.mismatches.append(f"{name} of this request is not the one that was sent")
        return None
    return text


def _assign_blobs(request: RebuiltRequest, stored: Mapping[bytes, Blob]) -> None:
    seqs = {
        digest: each.seq for each in request.rows if each.parts is not None for digest in find_blob_digests(each.parts)
    }
    request.blobs = {digest: stored[digest] for digest in seqs if digest in stored}
    for digest, blob in request.blobs.items():
        if Blob.from_bytes(blob.media_type, blob.data).digest != digest:
            request.mismatches.append(f"an attachment of message {seqs[digest]} is not what was sent")
    for digest, seq in seqs.items():
        if digest not in request.blobs:
            request.mismatches.append(f"an attachment of message {seq} is missing")


def _render(request: RebuiltRequest) -> RenderedRequest | None:
    """Render the request into `messages` and `parameters`; return None when the rows form no valid request."""
    manifest, call = request.manifest, request.call
    assert manifest is not None
    # A spoken reply is sent by its id until the id expires, so the time of the request decides about its bytes.
    now = call.started_at / 1_000_000 if manifest.at is None else manifest.at
    try:
        items = [_build_item(request.rows, index, manifest) for index in range(len(request.rows))]
        if manifest.transcript:  # the request of a summary sends its messages as one text
            text = format_transcript([item.shape for item in items])
            items = [Item(0, {"role": USER, "content": text}, 0, 0)]
        shapes, kept, _ = arrange_messages(items, request.prompt, manifest.profile, manifest.partial)
        request.messages = to_wire_messages(
            inline_blobs(shapes, request.blobs),
            manifest.profile,
            unsupported=manifest.unsupported,
            now=now,
            renderer=manifest.renderer,
        )
        if not manifest.profile.alternate:
            request.seqs = [*[None] * (len(shapes) - len(kept)), *(item.key or None for item in kept)]
        rendered = render_request(
            model=call.requested_model,
            messages=request.messages,
            params=manifest.params,
            profile=manifest.profile,
            stream=manifest.stream,
            tools=request.tools,
            mode=manifest.mode,
        )
    except (ConvokitError, ValueError, KeyError, TypeError, AttributeError) as error:  # altered rows hold any JSON
        request.mismatches.append(f"the stored rows form no request that could be sent ({type(error).__name__})")
        return None
    request.parameters = {name: value for name, value in rendered.body.items() if name not in ("model", "messages")}
    return rendered


def _build_item(rows: Sequence[MessageRow], index: int, manifest: Manifest) -> Item:
    row = rows[index]
    if row.status == "redacted":
        return Item(row.seq, _build_placeholder(rows, index), 0, 0)
    shape = row.as_wire()
    if row.status == "partial" and manifest.partial == "mark":
        shape = mark_partial(shape)
    return Item(row.seq, shape, 0, 0, row.status)


def _build_placeholder(rows: Sequence[MessageRow], index: int) -> dict[str, Any]:
    """Return the message that is shown instead of a redacted one."""
    row = rows[index]
    shape: dict[str, Any] = {"role": row.role, "content": f"[redacted: message {row.seq}]"}
    if row.tool_call_id is not None:
        shape["tool_call_id"] = row.tool_call_id
    # Tool results are valid only behind a message that asks for them, so a redacted asking message gets its calls back.
    calls = []
    for each in rows[index + 1 :]:
        if row.role != ASSISTANT or each.role != TOOL:
            break
        calls.append({"id": each.tool_call_id, "type": "function", "function": {"name": "redacted", "arguments": "{}"}})
    return {**shape, "tool_calls": calls} if calls else shape


def _explain_mismatch(connection: Connection, row: ConversationRow) -> str:
    """Return the first difference that `verify` finds: the rows form a request, but other bytes than those sent."""
    try:
        verify_conversation(connection, row.tenant, row.id)
    except ChainBroken as error:
        return f"the stored rows are not what was sent: {error}"
    return "the rebuilt request has other bytes than the one that was sent, although the hash chain is whole"
