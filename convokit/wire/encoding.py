"""The exact bytes of a request body: compact JSON in UTF-8, characters as they are, keys in the order they were given."""

from __future__ import annotations

import json
from typing import Any

from convokit.errors import InvalidInput, SettingsError

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode(body: dict[str, Any]) -> bytes:
    """Return the body as it is sent.

    Raises: SettingsError or InvalidInput naming the first key whose value is no JSON; the value itself is not shown.
    """
    try:
        return _ENCODER.encode(body).encode("utf-8")
    except (TypeError, ValueError, RecursionError):  # a lone surrogate is a ValueError too
        pass
    for key, value in body.items():
        problem = _problem(value)
        if problem:
            raise InvalidInput("messages", problem) if key == "messages" else SettingsError(str(key), problem)
    raise SettingsError("extra_body", "has a key that is not text")


def _problem(value: Any) -> str:
    try:
        _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds a lone surrogate (U+{ord(error.object[error.start]):04X})"
    except TypeError:
        return "holds a value that JSON does not have"
    except ValueError:
        return "holds a number that is not finite, or itself"
    except RecursionError:
        return "is nested too deeply"
    return ""
