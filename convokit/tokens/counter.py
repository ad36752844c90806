"""Count the tokens of messages, tools and schemas.

The count of a message is stored with the counter's name, so a message is counted once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from convokit.domain.message import ASSISTANT, USER
from convokit.domain.profiles import Profile
from convokit.domain.vocabularies import NEAR, VOCABULARIES
from convokit.tokens import exact, media
from convokit.tokens.estimate import CharacterEstimate

MESSAGE_OVERHEAD = 4
"""Tokens of a message besides its role and text: its start, end and line breaks (ChatML, Llama 3). OpenAI needs 3."""
REPLY_PRIMER = 5
"""Tokens that start the reply."""
TOOL_OVERHEAD = 8


class Counter(Protocol):
    """Counts the tokens of a text. Its `name` is stored with every count.

    Three optional attributes say how far its counts are trusted. `is_estimate` (default False): it lacks the vocabulary of the
    model. `first_factor` (default 1): what its counts are multiplied by until the server has reported tokens. `is_scaled`
    (default True): whether reported tokens scale its counts from then on; with False they are taken as they are.
    """

    @property
    def name(self) -> str: ...

    def count(self, text: str) -> int: ...


def find_first_factor(counter: Counter) -> float:
    """Return what the counts of a counter are multiplied by until a server reported tokens. Most counters need none."""
    return float(getattr(counter, "first_factor", 1.0))


def is_estimate(counter: Counter) -> bool:
    """Return whether a counter estimates, because it does not have the model's own vocabulary."""
    return bool(getattr(counter, "is_estimate", False))


def is_scaled(counter: Counter) -> bool:
    """Return whether the tokens that a server reports scale the counts of a counter."""
    return bool(getattr(counter, "is_scaled", True))


class ProfileCounter:
    """A counter that also knows the image prices of a profile, and the keys of replies that its provider wants back.

    Its name includes both, because the same message has another count under another profile.
    """

    def __init__(self, counter: Counter, profile: Profile) -> None:
        self.images = profile.images
        self.provider = profile.provider
        self.replayed = tuple(sorted(profile.replay_keys))
        # Not in the name: the counts of all messages without such calls are those of the counter itself.
        self.replayed_with_calls = tuple(sorted(profile.replay_keys | profile.replay_keys_with_calls))
        images = "" if self.images is None else f"+{self.images.name}"
        replayed = f"+{self.provider}:{','.join(self.replayed)}" if self.replayed else ""
        self.name = f"{counter.name}{images}{replayed}"
        self.count = counter.count
        self.first_factor = find_first_factor(counter)
        self.is_estimate, self.is_scaled = is_estimate(counter), is_scaled(counter)


def choose_counter(profile: Profile, given: Counter | None = None) -> Counter:
    """Return the counter for `profile`: `given`, else the model's vocabulary or one near it, else the estimate.

    Vocabularies need the `tokens` extra. The result is a ProfileCounter if the profile has image prices or keys that are sent
    back.
    """
    if isinstance(given, ProfileCounter):
        return given
    counter = given or choose_text_counter(profile.tokenizer)
    has_facts = profile.images is not None or profile.replay_keys or profile.replay_keys_with_calls
    return ProfileCounter(counter, profile) if has_facts else counter


def choose_text_counter(tokenizer: str | None) -> Counter:
    """Return the counter for `tokenizer`, in the form of `Profile.tokenizer`."""
    if not exact.is_splintr_installed():
        return CharacterEstimate()
    for vocabulary in VOCABULARIES:
        if tokenizer == vocabulary:
            return exact.ExactTokens(vocabulary)
        if tokenizer == NEAR + vocabulary:
            return exact.ExactTokens(vocabulary, near=True)
    return exact.ExactTokens("o200k_base", near=True)  # an unknown vocabulary; it is the middle of the known ones


def count_message(counter: Counter, message: Mapping[str, Any]) -> int:
    """Return the tokens of a message in the shape of the API, with its overhead."""
    total = MESSAGE_OVERHEAD + _count_role(counter.count, message.get("role") or USER)
    content = message.get("content")
    if isinstance(content, str):
        total += counter.count(content)
    elif content:
        total += sum(_count_part(counter, part) for part in content)
    elif isinstance(message.get("audio"), Mapping):  # an expired spoken reply is sent as its transcript
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
    if isinstance(counter, ProfileCounter) and counter.replayed_with_calls and message.get("role") == ASSISTANT:
        total += _count_replayed(counter, message)
    return total


def _count_replayed(counter: ProfileCounter, message: Mapping[str, Any]) -> int:
    """Return the tokens of keys that only this provider gets back, from the message or from its stored `extra`."""
    extra = message.get("extra")
    same_provider = isinstance(extra, Mapping) and extra.get("provider") == counter.provider
    stored = extra.get("keys") if same_provider and isinstance(extra, Mapping) else None
    merged = {**stored, **message} if isinstance(stored, Mapping) else message
    replayed = counter.replayed_with_calls if message.get("tool_calls") else counter.replayed
    values = (merged[key] for key in replayed if merged.get(key) is not None)
    texts = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str) for value in values
    )
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
    """Return the tokens of tools. Servers render their schemas into the prompt."""
    if not tools:
        return 0
    return 9 + sum(TOOL_OVERHEAD + counter.count(json.dumps(tool, ensure_ascii=False)) for tool in tools)


def count_schema(counter: Counter, response_format: Any) -> int:
    """Return the tokens of a response schema."""
    if not isinstance(response_format, Mapping):
        return 0
    return counter.count(json.dumps(response_format, ensure_ascii=False))
