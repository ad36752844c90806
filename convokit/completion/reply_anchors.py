"""Compute the digests under which the messages of a turn are found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convokit.domain.message import MessageRow
from convokit.errors import SettingsError

log = logging.getLogger("convokit.completion")
AnchorFunction = Callable[[Mapping[str, Any]], bytes | None]
"""Returns the digest of a message in the API's shape, 1 to 64 bytes, or None for a message without an anchor."""
_MAX_BYTES = 64


def compute_question_anchor(function: AnchorFunction, rows: Sequence[MessageRow]) -> bytes | None:
    """Return the anchor of the message that the turn answers, the last of these. Raises: SettingsError."""
    try:
        return _check(function(rows[-1].as_wire()))
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError("anchor", f"the function raised {type(error).__name__}: {error}") from error


def compute_reply_anchor(function: AnchorFunction, rows: Sequence[MessageRow]) -> bytes | None:
    """Return the anchor of a reply. A function that fails costs the anchor only: the reply is paid for."""
    try:
        return _check(function(rows[0].as_wire()))
    except Exception as error:  # the message and the traceback may contain text of the reply
        log.error("the anchor of a reply cannot be computed, and is not stored (%s)", type(error).__name__)
        return None


def _check(digest: object) -> bytes | None:
    if digest is None or (isinstance(digest, bytes) and 0 < len(digest) <= _MAX_BYTES):
        return digest
    raise SettingsError("anchor", f"the function must return 1 to {_MAX_BYTES} bytes or None, not {digest!r}")
