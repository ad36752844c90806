"""Keep what a fine-tuning sample has beside its messages.

Weights, tools and the instructions of an imported sample are never sent to a model. They are stored in the column `extra` of
messages, under a provider that no profile has, and written again by an export for training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from convokit.context.message_draft import MessageDraft
from convokit.domain.text import dump_json, to_plain_json, validate_text
from convokit.errors import InvalidInput
from convokit.settings import Limits

_PROVIDER = "fine-tuning"
SAMPLE_KEYS = ("tools", "parallel_tool_calls")
_MAX_NUMBER = 2**64


def keep_weight(draft: MessageDraft, weight: object) -> bool:
    """Keep the weight of a message. Return False if it is not 0 or 1."""
    if isinstance(weight, bool) or weight not in (0, 1):
        return False
    _add_keys(draft, {"weight": weight})
    return True


def keep_sample(
    draft: MessageDraft, values: Mapping[str, Any], instructions: Mapping[str, Any] | None, limits: Limits
) -> None:
    """Keep tools and instructions of a sample with its first message. Raises: InvalidInput, TooLarge."""
    sample = {key: values[key] for key in SAMPLE_KEYS if values.get(key) is not None}
    if not isinstance(sample.get("tools", []), list):
        raise InvalidInput("tools", "must be a list")
    if instructions is not None:
        sample["instructions"] = instructions
    if sample:
        plain = to_plain_json("sample", sample, max_number=_MAX_NUMBER)
        validate_text("tools", dump_json(plain), limit=limits.message_bytes, setting="Limits.message_bytes")
        _add_keys(draft, {"sample": plain})


def _add_keys(draft: MessageDraft, keys: Mapping[str, Any]) -> None:
    kept = draft.extra["keys"] if draft.extra is not None else {}
    draft.extra = {"provider": _PROVIDER, "keys": {**kept, **keys}}


def find_weight(extra: str | None) -> int | None:
    """Return the weight of a stored message."""
    weight: int | None = _read_keys(extra).get("weight")
    return weight


def find_sample(extra: str | None) -> dict[str, Any]:
    """Return tools and instructions of the sample that begins with a stored message; empty if there is none."""
    sample = _read_keys(extra).get("sample")
    return sample if isinstance(sample, dict) else {}


def _read_keys(extra: str | None) -> dict[str, Any]:
    values = json.loads(extra) if extra is not None and _PROVIDER in extra else {}
    keys = values.get("keys") if values.get("provider") == _PROVIDER else None
    return keys if isinstance(keys, dict) else {}
