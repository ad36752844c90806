"""The context report of a reply that was just made."""

from __future__ import annotations

from typing import Any

from convokit import Reply, Report


def report_of(reply: Reply[Any]) -> Report:
    """Return the report of the request that the reply answers."""
    assert reply.context is not None, "the reply was read back"
    return reply.context
