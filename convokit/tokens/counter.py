"""Counting tokens: whatever counts texts, and from it what messages, tools and schemas cost.

A text is counted by an estimate that needs nothing (`estimate`), by the model's own vocabulary (`exact`), by the server
(`convokit.runtime.tokenizer`), or by any of them calibrated (`calibrate`); `media` knows images, sound and files. A message's
count is stored beside the counter's name, so it is computed once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from convokit.domain.message import ASSISTANT, USER
from convokit.domain.profiles import Profile
from convokit.tokens import exact, media
from convokit.tokens.estimate import CharacterEstimate

MESSAGE_OVERHEAD = 4
"""Tokens a message costs beyond role and text: where it begins and ends, and line breaks (ChatML, Llama 3; OpenAI needs 3)."""
REPLY_PRIMER = 5
"""Tokens that open the reply: a message without its end."""
TOOL_OVERHEAD = 8


class Counter(Protocol):
    """Counts the tokens of a text. `name` is stored beside every count it makes."""

    @property
    def name(self) -> str: ...

    def count(self, text: str) -> int: ...


class ProfileCounter:
    """A counter together with what the profile adds: what images cost its model, and what of its own it is sent again.

    The name says all of it: under another profile the same message may cost something else.
    """

    def __init__(self, counter: Counter, profile: Profile) -> None:
        self.images = profile.images
        self.provider = profile.provider
        self.replayed = tuple(sorted(profile.replay_keys))
        images = "" if self.images is None else f"+{self.images.name}"
        replayed = f"+{self.provider}:{','.join(self.replayed)}" if self.replayed else ""
        self.name = f"{counter.name}{images}{replayed}"
        self.count = counter.count


def choose_counter(profile: Profile, given: Counter | None = None) -> Counter:
    """Return what counts for `profile`: the counter given, else exact tokens with the `tokens` extra, else the estimate.

    Exact means o200k_base or cl100k_base, where the profile's model is known to use it. A family of models whose images are
    priced by its own formula, and the keys of a reply that go back to its provider, become part of the counter and its name.
    """
    if isinstance(given, ProfileCounter):
        return given
    counter = given or _choose_default(profile.tokenizer)
    return counter if profile.images is None and not profile.replay_keys else ProfileCounter(counter, profile)


def _choose_default(tokenizer: str | None) -> Counter:
    if tokenizer in exact.ENCODINGS and exact.is_installed():
        return exact.ExactTokens(tokenizer)
    return CharacterEstimate(tokenizer)


def count_message(counter: Counter, message: Mapping[str, Any]) -> int:
    """Return what one message in the API's shape costs, its overhead included."""
    total = MESSAGE_OVERHEAD + _count_role(counter.count, message.get("role") or USER)
    content = message.get("content")
    if isinstance(content, str):
        total += counter.count(content)
    elif content:
        total += sum(_count_part(counter, part) for part in content)
    elif isinstance(message.get("audio"), Mapping):  # a spoken reply is sent in words once the server has forgotten it
        total += counter.count(message["audio"].get("transcript") or "")
    if message.get("refusal"):
        total += counter.count(message["refusal"])
    if message.get("name"):
        total += 1 + counter.count(message["name"])
    if message.get("tool_call_id"):
        total += counter.count(message["tool_call_id"])
    for call in message.get("tool_calls") or ():
        total += TOOL_OVERHEAD + counter.count(json.dumps(call, ensure_ascii=False))
    if message.get("function_call"):
        total += TOOL_OVERHEAD + counter.count(json.dumps(message["function_call"], ensure_ascii=False))
    if isinstance(counter, ProfileCounter) and counter.replayed and message.get("role") == ASSISTANT:
        total += _count_replayed(counter, message)
    return total


def _count_replayed(counter: ProfileCounter, message: Mapping[str, Any]) -> int:
    """Return what a provider's own keys cost that it is sent again: as stored beside the message, or in it already."""
    extra = message.get("extra")
    ours = isinstance(extra, Mapping) and extra.get("provider") == counter.provider
    kept = extra.get("keys") if ours and isinstance(extra, Mapping) else None
    found = {**kept, **message} if isinstance(kept, Mapping) else message
    values = (found[key] for key in counter.replayed if found.get(key) is not None)
    texts = (each if isinstance(each, str) else json.dumps(each, ensure_ascii=False, default=str) for each in values)
    return sum(MESSAGE_OVERHEAD + counter.count(text) for text in texts)


@functools.lru_cache(maxsize=256)
def _count_role(count: Callable[[str], int], role: str) -> int:
    return count(role)


def _count_part(counter: Counter, part: Mapping[str, Any]) -> int:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return counter.count(str(part.get(kind, "")))
    family = counter.images if isinstance(counter, ProfileCounter) else None
    if kind == "input_audio":
        return media.count_audio_tokens(part)
    if kind == "file":
        return media.count_file_tokens(part, family)
    return media.count_image_tokens(part, family)


def count_tools(counter: Counter, tools: Sequence[Mapping[str, Any]]) -> int:
    """Return what the tool schemas cost: servers render them into the prompt."""
    if not tools:
        return 0
    return 9 + sum(TOOL_OVERHEAD + counter.count(json.dumps(tool, ensure_ascii=False)) for tool in tools)


def count_schema(counter: Counter, response_format: Any) -> int:
    """Return what a response schema costs."""
    if not isinstance(response_format, Mapping):
        return 0
    return counter.count(json.dumps(response_format, ensure_ascii=False))
