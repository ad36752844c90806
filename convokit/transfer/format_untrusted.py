"""Import a lossless export as the file of a stranger.

Only what was said is imported: the messages of users, of the assistant and of tools, with title and metadata. Instructions,
settings and records of turns could steer later requests, and are left out. `restore.Restorer` restores a trusted export.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from convokit.domain.content import BLOB_SCHEME
from convokit.domain.message import ASSISTANT, FOREIGN_COLUMNS, INSTRUCTION_ROLES, PASSAGE, SUMMARY, TOOL, USER
from convokit.domain.text import dump_json
from convokit.errors import BadRecord, InvalidInput
from convokit.transfer import import_file
from convokit.transfer.drafts import ConversationDraft
from convokit.transfer.export_lines import ExportLines, check_end
from convokit.transfer.foreign_tree import MessageTree, repair_texts
from convokit.transfer.import_file import ImportFile
from convokit.transfer.importer import FormatReader, ImportOptions, Record
from convokit.transfer.timestamps import MAX_TIME_US

_HASH = re.compile(r"[0-9a-f]{64}")
_TEXTS = ("content", "tool_call_id", "name", "refusal")
# What each kind of row that is not imported counts as. An import entry stands for the rows of the old chain.
_ROW_KINDS = {
    "branch": "branches",
    "turn": "turns",
    "completion": "calls",
    "tool_call": "tool_runs",
    "summary": "summaries",
    "removal": "removals",
    "prompt": "prompts",
    "entry": None,
}
_STATUS_KINDS = {PASSAGE: "passages", SUMMARY: None, "redacted": "redacted_messages", "late": "late_replies"}


@dataclass(slots=True)
class _Conversation:
    """The lines of one conversation."""

    values: Mapping[str, Any]
    messages: list[Mapping[str, Any]] = field(default_factory=list)
    blobs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


class UntrustedReader(FormatReader):
    """Reads the conversations of an export of convokit."""

    takes_key = True
    rewindable = True
    file_names = ("*.jsonl",)

    def __init__(self, file: ImportFile, options: ImportOptions) -> None:
        super().__init__(file, options)
        self._lines = ExportLines(file)

    def read_records(self) -> Iterator[Record]:
        """Yield the lines of each conversation. Raises: BadRecord, TransferFailed."""
        self._lines.read_header()
        damage = self._lines.find_damage()
        if damage is not None:
            yield damage.line or 1, damage
        while True:
            try:
                line = self._lines.read()
                if line is None:
                    return
                kind, values, text = line
                if kind == "conversation":  # else it is the rest of a conversation that was skipped
                    first_line = self._file.line
                    yield first_line, self._collect(values, text)
            except BadRecord as error:
                yield self._file.line, error

    def _collect(self, values: Any, first_text: str) -> _Conversation:
        if not isinstance(values, Mapping):
            raise self._file.make_error("conversation: must be an object")
        found = _Conversation(values)
        first_line, digest, line_count, size = self._file.line, hashlib.sha256(_encode(first_text)), 1, 0
        while (line := self._lines.read()) is not None:
            kind, row, text = line
            if kind == "conversation":
                self._lines.put_back(line)
                break
            if kind == "end":
                try:
                    check_end(values.get("id"), row, digest.hexdigest(), line_count)
                except InvalidInput as error:
                    raise self._file.make_error(str(error)) from None
                return found
            digest.update(_encode(text))
            line_count += 1
            size += len(text)
            if size > import_file.MAX_RECORD_CHARS:
                limit = f"{import_file.MAX_RECORD_CHARS:,} characters, the limit for a record"
                raise self._file.make_error(f"the conversation is longer than {limit}", first_line)
            _add_row(found, kind, row)
        raise self._file.make_error(f'conversation: {values.get("id")} is truncated: it has no line "end"')

    def convert(self, value: Any) -> ConversationDraft:
        """Return the draft of a conversation. Raises: InvalidInput, TooLarge."""
        found: _Conversation = value
        row = found.values
        draft = ConversationDraft(_make_origin(row), left_out=found.left_out)
        draft.key = self._options.choose_key(row.get("key"), draft.left_out)
        draft.set_fields({"title": repair_texts(row.get("title")), "metadata": _parse(row, "metadata")}, self._limits)
        draft.created_at, draft.updated_at = _read_time(row, "created_at"), _read_time(row, "updated_at")
        _count_settings(draft, row)
        tree = MessageTree(draft, self._limits)
        for message in found.messages:
            _add_message(tree, draft, found, message)
        tree.set_head(str(row.get("head_seq")))
        shapes = [[message.parent, message.as_wire()] for message in draft.messages]
        draft.identity = f"{draft.origin}:{hashlib.sha256(dump_json(shapes).encode()).hexdigest()}"
        return draft


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _add_row(found: _Conversation, kind: str, row: Any) -> None:
    if not isinstance(row, Mapping):
        found.left_out["unreadable_rows"] += 1
    elif kind == "message":
        found.messages.append(row)
    elif kind == "blob":
        found.blobs[f"{BLOB_SCHEME}{row.get('digest')}"] = row
    else:
        counted = _ROW_KINDS.get(kind, "unknown_rows")
        if counted is not None:
            found.left_out[counted] += 1
        if kind == "turn" and row.get("idempotency_hash") is not None:
            found.left_out["idempotency_keys"] += 1
        if kind == "turn" and row.get("metadata") is not None:
            found.left_out["turn_metadata"] += 1


def _make_origin(row: Mapping[str, Any]) -> str:
    """Return the ref of the import entry: the old conversation, its last entry and that entry's hash."""
    try:
        id_ = UUID(str(row.get("id")))
    except ValueError:
        raise InvalidInput("conversation.id", "is not a UUID") from None
    last, hash_ = row.get("last_entry"), row.get("chain_hash")
    if isinstance(last, bool) or not isinstance(last, int) or not 0 <= last < 2**31:
        raise InvalidInput("conversation.last_entry", "is not the number of an entry")
    if not isinstance(hash_, str) or not _HASH.fullmatch(hash_):
        raise InvalidInput("conversation.chain_hash", "is not a SHA-256 in hexadecimal digits")
    return f"{id_}:{last}:{hash_}"


def _count_settings(draft: ConversationDraft, row: Mapping[str, Any]) -> None:
    settings, pins = _parse(row, "settings"), _parse(row, "pins")
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            size = len(value) if isinstance(value, Mapping) else value is not None
            draft.left_out["instructions" if name == "developer_prompt" else "settings"] += size
    elif settings is not None:
        draft.left_out["settings"] += 1
    draft.left_out["pins"] += len(pins) if isinstance(pins, list) else pins is not None
    draft.left_out["subjects"] += row.get("subject") is not None


def _add_message(tree: MessageTree, draft: ConversationDraft, found: _Conversation, row: Mapping[str, Any]) -> None:
    node, parent, role, status = str(row.get("seq")), str(row.get("parent_seq")), row.get("role"), row.get("status")
    if isinstance(status, str) and status in _STATUS_KINDS:
        kind = _STATUS_KINDS[status]
        if kind is None:
            tree.step_over(node, parent)
        else:
            tree.leave_out(node, parent, kind)
        return
    for column in FOREIGN_COLUMNS:
        draft.left_out[f"{column}s"] += row.get(column) is not None
    if role in INSTRUCTION_ROLES:
        tree.leave_out(node, parent, "instructions")
        return
    if role not in (USER, ASSISTANT, TOOL) or status not in ("complete", "partial"):
        tree.leave_out(node, parent, "unreadable_messages")
        return
    shape = {"role": role, **{name: row[name] for name in _TEXTS if row.get(name) is not None}}
    parts, calls, extra = (_parse(row, name) for name in ("parts", "tool_calls", "extra"))
    if isinstance(parts, list):
        shape["content"] = [_inline_blob(part, found.blobs) for part in parts]
    if calls is not None:
        shape["tool_calls"] = calls
    if extra is not None:
        _count_vendor_keys(draft, shape, extra)
    tree.add(node, parent, shape, created_at=_read_time(row, "created_at"), status=str(status))


def _count_vendor_keys(draft: ConversationDraft, shape: dict[str, Any], extra: Any) -> None:
    """Count the keys of a provider. The transcript of a spoken reply becomes its text."""
    keys = extra.get("keys") if isinstance(extra, Mapping) else None
    draft.left_out["vendor_keys"] += len(keys) if isinstance(keys, Mapping) else 1
    audio = keys.get("audio") if isinstance(keys, Mapping) else None
    transcript = audio.get("transcript") if isinstance(audio, Mapping) else None
    if isinstance(transcript, str) and not shape.get("content"):
        shape["content"] = transcript


def _inline_blob(part: Any, blobs: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a content part with its binary as a data: URL or base64, as a request has it."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    body = part.get(kind) if isinstance(kind, str) else None
    if not isinstance(body, Mapping):
        return part
    inlined = dict(body)
    for name, value in body.items():
        if isinstance(value, str) and value.startswith(BLOB_SCHEME):
            blob = blobs.get(value)
            if blob is None:
                return {"type": "text", "text": f"[{kind} erased]"}
            data = blob.get("data")
            inlined[name] = data if kind == "input_audio" else f"data:{blob.get('media_type')};base64,{data}"
    return {**part, kind: inlined}


def _parse(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a JSON column; its text if it is not JSON."""
    text = row.get(column)
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text


def _read_time(row: Mapping[str, Any], column: str) -> int | None:
    time = row.get(column)
    is_time = isinstance(time, int) and not isinstance(time, bool) and 0 <= time <= MAX_TIME_US
    return time if is_time else None
