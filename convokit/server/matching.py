"""Compare the messages that a client sends with those that are stored.

A client echoes a message with other keys, another order of arguments or another form of the same content. Two messages are
equal if their canonical forms are. A prefix of a history is found by a digest over the canonical forms of its messages. The
digests are keyed, because a digest of short text could be guessed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from convokit.domain.content import validate_content
from convokit.domain.message import ASSISTANT, Message
from convokit.errors import InvalidInput
from convokit.settings import Limits

_REASONING = (("<think>", "</think>"), ('<details type="reasoning"', "</details>"))
"""Beginning and end of reasoning that some clients put before the text of a reply and send back."""
_NO_LIMITS = Limits(message_bytes=2**60, attachment_bytes=2**60)


def canonicalize(message: Mapping[str, Any]) -> bytes:
    """Return the bytes that are equal for two forms of the same message.

    They have the role, the text or the parts, the calls with parsed arguments, and the id of the call that is answered.
    """
    content = message.get("content")
    parts = [part for part in content if part.get("type") != "refusal"] if isinstance(content, list) else None
    body: Any = content if isinstance(content, str) else ""
    if parts:
        is_text = all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts)
        body = "".join(part["text"] for part in parts) if is_text else [_canonicalize_part(part) for part in parts]
    if isinstance(body, str):
        body = body.replace("\r\n", "\n")
        body = (_cut_reasoning(body) if message["role"] == ASSISTANT else body).strip()
    calls = [_canonicalize_call(call) for call in message.get("tool_calls") or ()]
    form = [message["role"], body, calls, message.get("tool_call_id")]
    return json.dumps(form, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()


def _cut_reasoning(text: str) -> str:
    """Return the text without the reasoning at its beginning."""
    start = text.lstrip()
    for opening, closing in _REASONING:
        if start.startswith(opening):
            _, found, rest = start.partition(closing)
            return rest if found else text
    return text


def _canonicalize_part(part: Any) -> Any:
    """Return a part with the digest of its binary in place of the data, as stored parts have it."""
    if "blob:" not in json.dumps(part):
        try:
            [part] = validate_content([part], _NO_LIMITS).parts or [part]
        except InvalidInput:
            return part
    body = part.get(part["type"])
    if isinstance(body, dict) and body.get("detail") == "auto":
        return {**part, part["type"]: {name: value for name, value in body.items() if name != "detail"}}
    return part


def _canonicalize_call(call: Mapping[str, Any]) -> list[Any]:
    body = call.get("function") or call.get("custom") or {}
    arguments = body.get("arguments", body.get("input")) if isinstance(body, dict) else None
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments) if arguments else {}
    return [call.get("id"), body.get("name") if isinstance(body, dict) else None, arguments]


def to_stored_form(message: Message) -> dict[str, Any]:
    """Return a stored message in the API's shape."""
    shape: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        shape["tool_calls"] = message.tool_calls
    if message.tool_call_id is not None:
        shape["tool_call_id"] = message.tool_call_id
    return shape


def is_equal(stored: Message, sent: Mapping[str, Any]) -> bool:
    """Return whether a stored message is the one that a client sent."""
    return stored.role == sent["role"] and canonicalize(to_stored_form(stored)) == canonicalize(sent)


def list_equal(stored: Sequence[Message], sent: Mapping[str, Any]) -> list[Message]:
    """Return the stored messages that are the one that a client sent."""
    same = [message for message in stored if message.role == sent["role"]]
    wanted = canonicalize(sent) if same else b""
    return [message for message in same if canonicalize(to_stored_form(message)) == wanted]


def compute_digests(secret: bytes, scope: str, messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Return a digest for each prefix of the messages: number i covers the first i messages, and the scope."""
    digests = [hmac.digest(secret, scope.encode("utf-8", "surrogatepass"), "sha256")]
    for message in messages:
        digests.append(extend_digest(secret, digests[-1], message))
    return digests


def extend_digest(secret: bytes, digest: bytes, message: Mapping[str, Any]) -> bytes:
    """Return the digest of a prefix and one more message."""
    return hmac.digest(secret, digest + hashlib.sha256(canonicalize(message)).digest(), "sha256")
