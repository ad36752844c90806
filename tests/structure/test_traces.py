"""A reader follows each call through no more files, and no more switches between files, than before."""

from __future__ import annotations

import json

import pytest

from tests.structure import traces

STORED = {name: traces.Trace(**counts) for name, counts in json.loads(traces.STORED.read_text("utf-8")).items()}


@pytest.fixture(scope="module")
def measured() -> dict[str, traces.Trace]:
    return traces.measure()


@pytest.mark.parametrize("name", sorted(STORED))
def test_a_trace_only_falls(measured: dict[str, traces.Trace], name: str) -> None:
    """A call visits no more files and switches no more often than `traces.json` says; if fewer, that file is lowered."""
    hint = "if this cannot be avoided, say why in the commit and run: python -m tests.structure.traces --write"
    assert measured[name].files <= STORED[name].files, hint
    assert measured[name].switches <= STORED[name].switches, hint
