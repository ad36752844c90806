"""Whether rows from a file are such as the library writes: nothing that comes in may keep a conversation from going on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from convokit.audit import references
from convokit.context.validity import find_problems
from convokit.domain import hashchain, params
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ROLES, TOOL, MessageRow, Status
from convokit.domain.replay import Manifest
from convokit.domain.text import validate_text
from convokit.domain.turn import TurnState
from convokit.errors import InvalidInput, SettingsError

_MOST_US = 253_402_300_799_000_000
"""The end of the year 9999: what a datetime holds."""
_JSON: dict[tuple[str, str], type] = {
    ("conversation", "metadata"): dict,
    ("conversation", "settings"): dict,
    ("conversation", "pins"): list,
    ("message", "parts"): list,
    ("message", "tool_calls"): list,
    ("message", "extra"): dict,
    ("turn", "error"): dict,
    ("completion", "manifest"): dict,
    ("completion", "details"): dict,
    ("completion", "error"): dict,
}
"""Columns of JSON that is read again, and what it must be."""
_PLACES = {
    "branch": ("head_seq",),
    "turn": ("question_seq", "reply_seq", "after_seq"),
    "tool_call": ("message_seq", "result_seq"),
}
"""Columns that name a message."""
_PARTS = {"text": str, "image_url": Mapping, "input_audio": Mapping, "file": Mapping}
_KINDS = frozenset(get_args(hashchain.EntryKind))
_SEQ = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_CALL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:[1-9][0-9]{0,8}", re.ASCII)
_STATES = frozenset(get_args(TurnState)) - {"open"}
_STATUSES = frozenset(get_args(Status))


def checked_text(field: str, value: object) -> str:
    """Return text that every backend can hold, of any length. Raises: InvalidInput."""
    return validate_text(field, value, limit=2**62, setting="")


def _read(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's JSON, read. Raises: InvalidInput for what is not JSON, and for times that no calendar has."""
    found = {}
    for name, value in values.items():
        wanted = _JSON.get((kind, name))
        if wanted is not None and value is not None:
            found[name] = _json(f"{kind}.{name}", value, wanted)
        elif name.endswith("_at") and value is not None and not 0 <= value <= _MOST_US:
            raise InvalidInput(f"{kind}.{name}", f"{value} is not a time in microseconds since 1970")
    return found


def _json(place: str, value: str, wanted: type) -> Any:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, wanted):
        raise InvalidInput(place, f"is not a JSON {'object' if wanted is dict else 'array'}")
    return found


def check_conversation(row: ConversationRow) -> None:
    """Raise: InvalidInput unless this is a conversation as the library writes them."""
    found = _read("conversation", {name: getattr(row, name) for name in row.__slots__})
    if row.last_seq < 0 or row.last_entry < 1:
        raise InvalidInput("conversation.last_entry", "a conversation has at least one entry")
    for seq in (row.head_seq, *found.get("pins", ())):
        _check_place("conversation.head_seq", seq, row)
    settings = found.get("settings", {})
    try:
        params.validate_params(settings.get("params", {}))
    except (SettingsError, TypeError, ValueError) as error:
        raise InvalidInput("conversation.settings", str(error)) from None
    for name in ("model", "developer_prompt"):
        if settings.get(name) is not None or name == "model" in settings:
            checked_text(f"conversation.settings.{name}", settings[name])
    if settings.keys() - {"model", "developer_prompt", "params"}:
        raise InvalidInput("conversation.settings", "holds what this version of convokit does not know")


def _check_place(field: str, seq: object, row: ConversationRow) -> None:
    if seq is None:
        return
    if isinstance(seq, bool) or not isinstance(seq, int) or not 1 <= seq <= row.last_seq:
        raise InvalidInput(field, f"{seq!r} is not a message of the conversation, which has {row.last_seq:,}")


class Messages:
    """Checks the rows of one conversation as they come by: that the messages are all there, each behind its parent."""

    def __init__(self, row: ConversationRow) -> None:
        self._row = row
        self._last = 0
        self._run_start = 0
        self._removed = 0

    def check(self, kind: str, values: Mapping[str, Any]) -> None:
        """Raise: InvalidInput unless the row is sound."""
        found = _read(kind, values)
        for name in _PLACES.get(kind, ()):
            _check_place(f"{kind}.{name}", values[name], self._row)
        if kind == "turn" and values["state"] not in _STATES:
            raise InvalidInput("turn.state", f"{values['state']!r} is not how a turn ends")
        if kind == "message":
            self._check_message(values, found)
        elif kind == "entry":
            _check_entry(values)
        elif kind == "removal":
            self._check_removal(values)
        elif kind == "completion":
            _check_manifest(values["manifest"])

    def _check_message(self, values: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        seq, parent = values["seq"], values["parent_seq"]
        if seq != self._last + 1:
            raise InvalidInput("message.seq", f"{seq} does not follow {self._last}")
        if parent is not None and not 1 <= parent < seq:
            raise InvalidInput("message.parent_seq", f"{parent} is not a message before {seq}")
        follows = parent is not None and parent == self._last
        self._last, self._run_start = seq, self._run_start if follows else seq
        if values["run_start_seq"] != self._run_start:
            raise InvalidInput("message.run_start_seq", f"must be {self._run_start}")
        if min(values["tokens"], values["path_tokens"]) < 0:
            raise InvalidInput("message.tokens", "is below zero")
        if values["role"] not in ROLES or values["status"] not in _STATUSES:
            raise InvalidInput("message.role", f"{values['role']!r}, {values['status']!r}: not a role and a status")
        _check_parts(found.get("parts", ()))
        if "extra" in found and not isinstance(found["extra"].get("keys"), dict):
            raise InvalidInput("message.extra", "must hold an object named keys")
        if values["status"] != "redacted":
            check_calls(MessageRow(**values).as_wire())

    def _check_removal(self, values: Mapping[str, Any]) -> None:
        number, ref = values["number"], values["ref"]
        if not self._removed < number <= self._row.last_entry:
            last = self._row.last_entry
            raise InvalidInput("removal.number", f"{number} is not an entry behind {self._removed}, up to {last}")
        self._removed = number
        if not references.is_removal_ref(ref, self._row.last_seq):
            raise InvalidInput("removal.ref", f"{ref[:80]!r} names nothing that can be removed")

    def end(self) -> int:
        """Return how many messages there were. Raises: InvalidInput when some are missing."""
        if self._last != self._row.last_seq:
            raise InvalidInput("message", f"{self._last:,} of {self._row.last_seq:,} messages are there")
        return self._last


def _check_manifest(stored: str) -> None:
    try:
        Manifest.from_json(stored)
    except ValueError as error:
        raise InvalidInput("completion.manifest", f"cannot be read ({str(error)[:200]})") from None


def _check_entry(values: Mapping[str, Any]) -> None:
    kind, ref = values["kind"], values["ref"]
    wanted = {"message": _SEQ, "completion": _CALL}.get(kind)
    if kind not in _KINDS or (wanted is not None and not wanted.fullmatch(ref)):
        raise InvalidInput("entry.ref", f"{kind[:20]} {ref[:80]!r} names nothing that can be in a chain")


def _check_parts(parts: Any) -> None:
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _PARTS or not isinstance(part.get(kind), _PARTS[kind]):
            raise InvalidInput(f"message.parts[{number}]", "is not a content part")


def check_calls(shape: Mapping[str, Any]) -> None:
    """Raise: InvalidInput unless a message's tool calls could be sent, were they all answered."""
    calls = shape.get("tool_calls")
    if calls is None:
        return
    if any(not isinstance(call, Mapping) for call in calls):
        raise InvalidInput("message.tool_calls", "each must be an object")
    answers = [{"role": TOOL, "tool_call_id": call.get("id"), "content": "-"} for call in calls]
    asked = {"role": shape["role"], "content": "-", "tool_calls": calls}
    found = [each for each in find_problems([asked, *answers]) if "[0]" in each]
    if found:
        raise InvalidInput("message.tool_calls", found[0].partition(": ")[2])
