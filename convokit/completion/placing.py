"""The places that messages get: until they are written, a request that holds them names those they are expected to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convokit.completion import manifest as manifests
from convokit.completion.prepare import Prepared
from convokit.domain.message import MessageRow


def renumbered(prepared: Prepared, expected: Sequence[int], rows: Sequence[MessageRow]) -> Prepared:
    """Return the same request with its last messages under the seqs they were written as, where those are not the expected."""
    seqs = {seq: row.seq for seq, row in zip(expected, rows, strict=True) if seq != row.seq}
    if not seqs:
        return prepared
    items = tuple(replace(item, key=seqs.get(item.key, item.key)) for item in prepared.items)
    context = manifests.renumbered(prepared.context, seqs)
    made_of = manifests.written(prepared.plan, context, stream=prepared.stream, now=prepared.at)
    return replace(prepared, items=items, context=context, manifest=made_of)
