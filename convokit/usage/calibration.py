"""Pair estimated token counts with the counts that servers reported.

Requests are put together again from their manifests, so any counter can be asked, also one that did not count them then.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection

from convokit.context.builder import ContextBuilder, ContextInput
from convokit.context.strategy import Item
from convokit.domain.profiles import Profile
from convokit.errors import ContextOverflow, InvalidInput
from convokit.settings import Budget
from convokit.store import api_calls, blobs, messages
from convokit.tokens.counter import Counter, choose_counter, count_message

_EVERYTHING = Budget(context_tokens=1_000_000_000, reply_tokens=1)


def usage_pairs(
    connection: Connection, counter: Counter, *, model: str, tenant: str = "default", limit: int = 100
) -> list[tuple[int, int]]:
    """Return pairs of prompt tokens for the latest `limit` calls of `model`: counted by `counter`, reported by the server.

    `Calibrated.from_usage` takes them. Calls of which something was erased are left out. It reads the windows of all those
    calls: something for the start of a program, not for every turn.
    """
    pairs = []
    for call in api_calls.list_reported_calls(connection, tenant, model, limit):
        counted = _count_request(connection, tenant, counter, call)
        if counted is not None:
            pairs.append((counted, call.prompt_tokens))
    return pairs


def _count_request(connection: Connection, tenant: str, counter: Counter, call: api_calls.ReportedCall) -> int | None:
    manifest = json.loads(call.manifest)
    if manifest.get("transcript"):  # its messages went as one text
        return None
    profile = Profile(**manifest["profile"])
    count = choose_counter(profile, counter)
    wanted = {seq for first, last in manifest["window"] for seq in range(first, last + 1)}
    rows = [
        row for row in messages.read_many(connection, call.conversation_id, sorted(wanted)) if row.status != "redacted"
    ]
    texts = {name: _find_prompt(connection, tenant, manifest.get(name)) for name in ("prompt", "tools")}
    if len(rows) != len(wanted) or any(name in manifest and text is None for name, text in texts.items()):
        return None
    items = [
        Item(row.seq, row.as_wire(), count_message(count, row.as_wire()), 0, row.status)
        for row in sorted(rows, key=lambda row: row.seq)
    ]
    try:
        builder = ContextBuilder(budget=_EVERYTHING, profile=profile, counter=count)
        tools = json.loads(texts["tools"] or "[]")
        fixed = builder.count_fixed(texts["prompt"], tools, _find_response_format(manifest))
        context = builder.assemble(ContextInput(items=items, fixed=fixed))
    except (ContextOverflow, InvalidInput):  # no request that could be sent again: nothing to learn from it
        return None
    return context.report.tokens


def _find_prompt(connection: Connection, tenant: str, digest: str | None) -> str | None:
    return None if digest is None else blobs.find_prompt(connection, tenant, bytes.fromhex(digest))


def _find_response_format(manifest: dict[str, Any]) -> Any:
    return manifest.get("params", {}).get("response_format")
