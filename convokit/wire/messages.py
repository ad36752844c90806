"""Messages as they are stored, made fit for one server.

Stored is OpenAI's shape; a profile says what this server takes of it. What only an answer has (annotations, parsed, audio data)
never goes back, a vendor's own keys only to the vendor that sent them. Roles, order and which messages go at all were decided
before. The input is never changed, and the same input always gives the same output.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from convokit.domain.message import ASSISTANT, FUNCTION, TOOL
from convokit.domain.profiles import Profile
from convokit.errors import InvalidInput, SettingsError

Unsupported = Literal["raise", "placeholder"]
MessageLike = Mapping[str, Any] | BaseModel

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTHS: tuple[int, ...] = (9, 24, 32, 40, 16, 12, *range(1, 65))
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_KINDS = {"image_url": "image", "input_audio": "audio", "file": "file"}
_AUDIO_MARGIN_S = 60.0


def to_wire_messages(
    messages: Sequence[MessageLike],
    profile: Profile,
    *,
    unsupported: Unsupported = "raise",
    now: float | None = None,
    send_names: bool = False,
) -> list[dict[str, Any]]:
    """Return the messages as the server of `profile` accepts them.

    A content part it does not take raises InvalidInput, or becomes a text that says what was left out ("placeholder"). `now`
    (Unix time) decides whether a spoken answer can still be named by its id; without it, its transcript is sent. `name` is sent
    only with `send_names`, cut down to the characters the API allows.
    """
    fit = _Fitting(profile, unsupported, now, send_names)
    return [fit.message(_mapping(message), f"messages[{number}]") for number, message in enumerate(messages)]


class _Fitting:
    """One pass over the messages of a request."""

    def __init__(self, profile: Profile, unsupported: Unsupported, now: float | None, send_names: bool) -> None:
        self.profile = profile
        self.unsupported = unsupported
        self.now = now
        self.send_names = send_names
        pattern = profile.tool_call_id_pattern
        self.call_id: Callable[[str], str] = _same if pattern is None else functools.partial(map_tool_call_id, pattern)

    def message(self, message: Mapping[str, Any], place: str) -> dict[str, Any]:
        role = message.get("role")
        if not isinstance(role, str):
            raise InvalidInput(f"{place}.role", "is missing")
        out: dict[str, Any] = {"role": role, "content": self.content(message.get("content"), role, place)}
        if role == ASSISTANT:
            self.assistant(message, out)
        elif role == TOOL:
            out["tool_call_id"] = self.call_id(str(message.get("tool_call_id", "")))
        if out["content"] is None and not (role == ASSISTANT and self.profile.null_content and _calls(out)):
            out["content"] = ""
        name = message.get("name")
        if role == FUNCTION:
            out["name"] = name
        elif self.send_names and isinstance(name, str) and role != TOOL:
            slug = slugify_name(name)
            if slug:
                out["name"] = slug
        return out

    def content(self, content: Any, role: str, place: str) -> Any:
        if not isinstance(content, (list, tuple)):
            return content
        parts = [self.part(_mapping(part), role, f"{place}.content[{number}]") for number, part in enumerate(content)]
        if parts and self.profile.parts == {"text"} and all(part.get("type") == "text" for part in parts):
            return "\n".join(
                str(part.get("text", "")) for part in parts
            )  # a server of text alone takes no arrays either
        return parts

    def part(self, part: Mapping[str, Any], role: str, place: str) -> dict[str, Any]:
        kind = str(part.get("type"))
        if kind == "refusal" and role == ASSISTANT:
            return dict(part) if self.profile.refusal_part else {"type": "text", "text": part.get("refusal", "")}
        if kind != "text" and kind not in self.profile.parts:
            return self.without(place, kind, f"{self.profile.name} takes no {_KINDS.get(kind, kind)} parts")
        inner = part.get(kind)
        if kind == "image_url" and self.profile.inline_images_only and not _inline(inner):
            return self.without(place, "image_url", f"{self.profile.name} takes images as data: URLs only")
        out = {key: value for key, value in part.items() if value is not None}
        if isinstance(inner, Mapping):
            out[kind] = {key: value for key, value in inner.items() if value is not None}
        return out

    def without(self, place: str, kind: str, problem: str) -> dict[str, Any]:
        if self.unsupported == "raise":
            raise InvalidInput(place, problem)
        return {"type": "text", "text": f"[{_KINDS.get(kind, kind)} left out]"}

    def assistant(self, message: Mapping[str, Any], out: dict[str, Any]) -> None:
        extra = message.get("extra")
        ours = isinstance(extra, Mapping) and extra.get("provider") == self.profile.provider
        refusal = message.get("refusal")
        if isinstance(refusal, str) and refusal and not out["content"]:
            out["content"] = [{"type": "refusal", "refusal": refusal}] if self.profile.refusal_part else refusal
        calls = message.get("tool_calls")
        if calls:
            out["tool_calls"] = [self.call(_mapping(call), ours=ours) for call in calls]
        if message.get("function_call"):
            out["function_call"] = dict(_mapping(message["function_call"]))
        audio = message.get("audio")
        if isinstance(audio, Mapping):
            self.audio(audio, out, foreign=isinstance(extra, Mapping) and not ours)
        keys = extra.get("keys") if ours and isinstance(extra, Mapping) else None
        if isinstance(keys, Mapping):
            out |= {key: keys[key] for key in sorted(self.profile.replay_keys) if key in keys and key not in out}

    def call(self, call: Mapping[str, Any], *, ours: bool) -> dict[str, Any]:
        kind = str(call.get("type") or "function")
        body = _mapping(call.get(kind) or {})
        if kind == "custom":
            inner = {"name": _called(body.get("name")), "input": body.get("input") or ""}
        else:
            inner = {"name": _called(body.get("name")), "arguments": body.get("arguments") or "{}"}
        out = {"id": self.call_id(str(call.get("id", ""))), "type": kind, kind: inner}
        if ours and call.get("extra_content") is not None:
            out["extra_content"] = call["extra_content"]
        return out

    def audio(self, audio: Mapping[str, Any], out: dict[str, Any], *, foreign: bool) -> None:
        """Name a spoken answer while its provider still has it; say it in words after that."""
        known, expires = audio.get("id"), audio.get("expires_at")
        fresh = self.now is not None and isinstance(expires, (int, float)) and self.now < expires - _AUDIO_MARGIN_S
        if known and fresh and not foreign and "input_audio" in self.profile.parts:
            out["audio"] = {"id": known}
        elif not out["content"]:
            out["content"] = audio.get("transcript") or ""


def map_tool_call_id(pattern: str, id: str) -> str:
    """Return the id itself if it matches the pattern, else one that does and is always the same for this id."""
    if re.fullmatch(pattern, id):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest())
    digits = ""
    while len(digits) < 64:
        number, digit = divmod(number, len(_ALPHABET))
        digits += _ALPHABET[digit]
        if not number:
            number = int.from_bytes(hashlib.sha256(digits.encode()).digest())
    length = _id_length(pattern)
    return digits[:length]


@functools.cache
def _id_length(pattern: str) -> int:
    for length in _ID_LENGTHS:
        if re.fullmatch(pattern, ("Aa0z9Z" * 11)[:length]):
            return length
    raise SettingsError("Profile.tool_call_id_pattern", f"{pattern!r} matches no id of letters and digits")


def slugify_name(name: str) -> str:
    """Return a name in the characters the API allows, at most 64 of them; empty when nothing of it is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    return _NOT_IN_NAMES.sub("_", plain).strip("_")[:64]


def _called(name: Any) -> str:
    """Return the name of what a model called as the API takes it back: models make up names that it refuses."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    return slugify_name(name if isinstance(name, str) else "") or "unnamed"


def _same(id: str) -> str:
    return id


def _calls(out: Mapping[str, Any]) -> bool:
    return "tool_calls" in out or "function_call" in out or "audio" in out


def _inline(image: Any) -> bool:
    url = image.get("url") if isinstance(image, Mapping) else image
    return isinstance(url, str) and url[:5].lower() == "data:"


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return a message, part or call as a mapping: another library's model object is as good as a dict."""
    if type(value) is dict:
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return value if isinstance(value, Mapping) else {}
