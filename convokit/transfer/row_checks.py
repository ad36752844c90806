"""Validate imported rows before they are inserted.

A row must be one that the library could have written. An imported conversation can always be continued.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from convokit.audit import references
from convokit.context.message_draft import check_tool_calls
from convokit.domain import hashchain, params
from convokit.domain.content import BLOB_SCHEME
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import PASSAGE, ROLES, SUMMARY, Status
from convokit.domain.removal import RemovalRow
from convokit.domain.stored_request import Manifest
from convokit.domain.text import validate_text
from convokit.domain.turn import TurnState
from convokit.errors import InvalidInput, SettingsError
from convokit.transfer.import_file import ImportFile
from convokit.transfer.timestamps import MAX_TIME_US

# No counter of the library, custom or not, counts more than a token for each byte of text.
_MAX_PART_TOKENS = 100_000
# Counters such as the number of a try or the position of a call grow by one. So they never leave their column's range.
_MAX_COUNT = 10**9
# A million dollars. Thousands of such costs can still be added up.
_MAX_COST_NANOUSD = 10**15
_UNCOUNTED_COLUMNS = ("path_tokens", "window_rule")
_JSON_COLUMNS: dict[tuple[str, str], type] = {
    ("conversation", "metadata"): dict,
    ("conversation", "settings"): dict,
    ("conversation", "pins"): list,
    ("message", "parts"): list,
    ("message", "tool_calls"): list,
    ("message", "extra"): dict,
    ("turn", "error"): dict,
    ("turn", "metadata"): object,
    ("completion", "manifest"): dict,
    ("completion", "details"): dict,
    ("completion", "error"): dict,
}
_JSON_NAMES: dict[type, str] = {dict: "object", list: "array", object: "value"}
_SEQ_COLUMNS = {
    "branch": ("head_seq",),
    "turn": ("question_seq", "reply_seq", "after_seq"),
    "tool_call": ("message_seq", "result_seq"),
}
_PART_TYPES = {"text": str, "image_url": Mapping, "input_audio": Mapping, "file": Mapping}
_ENTRY_KINDS = get_args(hashchain.EntryKind)
_BLOB = re.compile(r"blob:[0-9a-f]{64}")
# The keys of parts and of a spoken reply that may name a stored binary, and the other texts beside them.
_BODY_KEYS = frozenset({"url", "data", "file_data", "file_id", "filename"})
_SEQ = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_CALL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:[1-9][0-9]{0,8}", re.ASCII)
# An open turn is exported as abandoned.
_TURN_STATES = tuple(state for state in get_args(TurnState) if state != "open")
_STATUSES = get_args(Status)
_SETTINGS = ("model", "developer_prompt", "params")


def validate_any_text(field: str, value: object) -> str:
    """Return text of any length that every database can store. Raises: InvalidInput."""
    return validate_text(field, value, limit=2**62, setting="")


def check_conversation(row: ConversationRow) -> None:
    """Check the row of a conversation. Raises: InvalidInput."""
    json_values = _check_columns("conversation", {name: getattr(row, name) for name in row.__slots__})
    for name, value, least in (("last_seq", row.last_seq, 0), ("last_entry", row.last_entry, 1)):
        if value < least:
            raise InvalidInput(f"conversation.{name}", f"must be at least {least}, not {value}")
    _check_seq("conversation.head_seq", row.head_seq, row)
    for seq in json_values.get("pins", ()):
        _check_seq("conversation.pins", seq, row)
    settings = json_values.get("settings", {})
    try:
        params.validate_params(settings.get("params", {}))
    except (SettingsError, TypeError, ValueError) as error:
        raise InvalidInput("conversation.settings", str(error)) from None
    for name in ("model", "developer_prompt"):
        if settings.get(name) is not None or name == "model" in settings:
            validate_any_text(f"conversation.settings.{name}", settings[name])
    unknown = [name for name in settings if name not in _SETTINGS]
    if unknown:
        raise InvalidInput("conversation.settings", f"{unknown[0][:50]!r} is an unknown setting; update convokit-sql")


def _check_columns(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check times and JSON columns. Return the JSON values by column. Raises: InvalidInput."""
    json_values = {}
    for name, value in values.items():
        if value is None:
            continue
        type_ = _JSON_COLUMNS.get((kind, name))
        if type_ is not None:
            json_values[name] = _parse_json(f"{kind}.{name}", value, type_)
        elif name.endswith("_at") and not 0 <= value <= MAX_TIME_US:
            raise InvalidInput(f"{kind}.{name}", f"{value} is not a time in microseconds from 1970 to 9999")
        elif isinstance(value, int) and name not in _UNCOUNTED_COLUMNS and not name.endswith("_at"):
            largest = _MAX_COST_NANOUSD if name == "cost_nanousd" else _MAX_COUNT
            if not 0 <= value <= largest:
                raise InvalidInput(f"{kind}.{name}", f"must be from 0 to {largest:,}, not {value}")
    return json_values


def _parse_json(field: str, text: str, type_: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if value is not None and isinstance(value, type_):
        validate_any_text(field, json.dumps(value, ensure_ascii=False))  # an escape may stand for a lone surrogate
    else:
        raise InvalidInput(field, f"is not a JSON {_JSON_NAMES[type_]}")
    return value


def _check_seq(field: str, seq: object, row: ConversationRow) -> None:
    if seq is None:
        return
    if isinstance(seq, bool) or not isinstance(seq, int) or not 1 <= seq <= row.last_seq:
        raise InvalidInput(field, f"{seq!r} is not a message of the conversation, which has {row.last_seq:,}")


class RowChecker:
    """Checks the rows of one conversation in the order of the file. Messages must be complete, each after its parent."""

    def __init__(self, row: ConversationRow) -> None:
        self._row = row
        self._last_seq = 0
        self._run_start = 0
        self._last_removal = 0
        self._path_tokens = array("q")
        """The `path_tokens` of each message, by its seq less 1."""
        self.newest = 0
        """The time of the newest message."""

    def check(self, kind: str, values: Mapping[str, Any]) -> None:
        """Check a row. Raises: InvalidInput."""
        json_values = _check_columns(kind, values)
        for name in _SEQ_COLUMNS.get(kind, ()):
            _check_seq(f"{kind}.{name}", values[name], self._row)
        if kind == "turn":
            _check_choice("turn.state", values["state"], _TURN_STATES)
        elif kind == "message":
            self._check_message(values, json_values)
        elif kind == "entry":
            _check_entry(values)
        elif kind == "removal":
            self._check_removal(values)
        elif kind == "completion":
            _check_manifest(values["manifest"])

    def _check_message(self, values: Mapping[str, Any], json_values: Mapping[str, Any]) -> None:
        seq, parent = values["seq"], values["parent_seq"]
        if seq != self._last_seq + 1:
            raise InvalidInput("message.seq", f"must be {self._last_seq + 1}, not {seq}")
        if parent is not None and not 1 <= parent < seq:
            raise InvalidInput("message.parent_seq", f"{parent} is not the seq of a message before {seq}")
        # A message continues the run of its parent only if its seq is the next one.
        follows_last = parent is not None and parent == self._last_seq
        self._last_seq, self._run_start = seq, self._run_start if follows_last else seq
        if values["run_start_seq"] != self._run_start:
            raise InvalidInput("message.run_start_seq", f"must be {self._run_start}, not {values['run_start_seq']}")
        self.newest = max(self.newest, values["created_at"])
        _check_choice("message.role", values["role"], ROLES)
        _check_choice("message.status", values["status"], _STATUSES)
        _check_parts(json_values.get("parts", ()))
        if "extra" in json_values:
            _check_extra(json_values["extra"])
        if values["item"] is not None:
            _check_item(values)
        self._check_tokens(values, len(json_values.get("parts", ())))
        if "tool_calls" in json_values and values["status"] != "redacted":
            check_tool_calls("message.tool_calls", values["role"], json_values["tool_calls"])

    def _check_tokens(self, values: Mapping[str, Any], part_count: int) -> None:
        """Check the counts that the budget of later requests relies on."""
        tokens, status = values["tokens"], values["status"]
        # The text of a redacted message is gone, and with it the bytes that were counted.
        most = sum(len(value.encode()) for value in values.values() if isinstance(value, str))
        most += part_count * _MAX_PART_TOKENS
        if tokens > most and status != "redacted":
            raise InvalidInput(
                "message.tokens", f"{tokens:,} are more than the {most:,} that a row of its size can have"
            )
        before = 0 if values["parent_seq"] is None else self._path_tokens[values["parent_seq"] - 1]
        # Passages and summaries are not part of the path.
        expected = before + (0 if status in (PASSAGE, SUMMARY) else tokens)
        if values["path_tokens"] != expected:
            raise InvalidInput("message.path_tokens", f"must be {expected}, not {values['path_tokens']}")
        self._path_tokens.append(expected)

    def _check_removal(self, values: Mapping[str, Any]) -> None:
        number, ref = values["number"], values["ref"]
        if not self._last_removal < number <= self._row.last_entry:
            expected = f"must be from {self._last_removal + 1} to {self._row.last_entry}"
            raise InvalidInput("removal.number", f"{expected}, not {number}")
        self._last_removal = number
        if not references.is_removal_ref(ref, self._row.last_seq):
            raise InvalidInput("removal.ref", f"{ref[:80]!r} is not a message or API call of the conversation")

    def finish(self) -> int:
        """Return the number of messages. Raises: InvalidInput if some are missing."""
        if self._last_seq != self._row.last_seq:
            raise InvalidInput("message", f"only {self._last_seq:,} of {self._row.last_seq:,} messages are in the file")
        return self._last_seq


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidInput(field, f"must be one of {', '.join(choices)}, not {value[:50]!r}")


def _check_manifest(stored: str) -> None:
    try:
        Manifest.from_json(stored)
    except ValueError as error:
        raise InvalidInput("completion.manifest", f"cannot be read ({str(error)[:200]})") from None


def _check_entry(values: Mapping[str, Any]) -> None:
    kind, ref = values["kind"], values["ref"]
    _check_choice("entry.kind", kind, _ENTRY_KINDS)
    pattern = {"message": _SEQ, "completion": _CALL}.get(kind)
    if pattern is not None and not pattern.fullmatch(ref):
        raise InvalidInput("entry.ref", f"{ref[:80]!r} is not the ref of a {kind}")


def _check_parts(parts: Sequence[Any]) -> None:
    for index, part in enumerate(parts):
        type_ = part.get("type") if isinstance(part, dict) else None
        if not isinstance(type_, str) or not isinstance(part.get(type_), _PART_TYPES.get(type_, ())):
            raise InvalidInput(f"message.parts[{index}]", f"is not a content part ({', '.join(_PART_TYPES)})")
        if isinstance(part[type_], dict):
            _check_body(f"message.parts[{index}].{type_}", part[type_])


def _check_body(field: str, body: Mapping[str, Any]) -> None:
    """Check the values of a content part: texts, or the digest of a stored binary."""
    for name in _BODY_KEYS & body.keys():
        value = body[name]
        if not isinstance(value, str) or (value.startswith(BLOB_SCHEME) and not _BLOB.fullmatch(value)):
            raise InvalidInput(f"{field}.{name}", "must be text, or blob: and 64 hexadecimal digits")


def _check_item(values: Mapping[str, Any]) -> None:
    if not values["kind"]:
        raise InvalidInput("message.item", "needs a kind, which names the program that it belongs to")
    try:
        json.loads(values["item"])
    except (ValueError, RecursionError):
        raise InvalidInput("message.item", "is not JSON") from None


def _check_extra(extra: Mapping[str, Any]) -> None:
    keys = extra.get("keys")
    audio = keys.get("audio") if isinstance(keys, dict) else None
    if not isinstance(keys, dict) or not (audio is None or isinstance(audio, dict)):
        raise InvalidInput("message.extra", 'must contain an object "keys", and in it no "audio" that is not an object')
    if audio:
        _check_body("message.extra.keys.audio", audio)


class RemovalRowChecker:
    """Compares each removal with its chain entry. An error names the line of the removal."""

    def __init__(self, file: ImportFile) -> None:
        self._file = file
        self._expected: dict[int, tuple[int, hashchain.HashInput]] = {}
        """The line and hash input of each removal that has no entry yet, by number."""

    def check(self, kind: str, row: Mapping[str, Any]) -> None:
        """Keep a removal, or compare an entry. Raises: BadRecord."""
        if kind == "removal":
            self._expected[row["number"]] = self._file.line, RemovalRow(**row).hash_input()
        elif kind == "entry":
            line, expected = self._expected.pop(row["number"], (None, None))
            if expected is None:
                if row["kind"] in ("redaction", "erasure"):
                    raise self._file.make_error(f"{row['kind']} {row['number']} has no removal")
            elif (expected.kind, expected.ref, expected.commitment) != (row["kind"], row["ref"], row["commitment"]):
                raise self._file.make_error(f"removal {row['number']} does not match its chain entry", line)

    def finish(self) -> None:
        """Check that every removal has an entry. Raises: BadRecord."""
        for number, (line, _) in self._expected.items():
            raise self._file.make_error(f"removal {number} has no chain entry", line)
