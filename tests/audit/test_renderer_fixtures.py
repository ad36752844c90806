"""Test that requests written by earlier renderer versions are still replayed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convokit.wire.request import RENDERER
from tests.audit.recordings import every_call
from tests.fixtures.reading import FIXTURES, restored
from tests.support.faces import Face


def test_every_renderer_version_has_a_fixture() -> None:
    """A change of RENDERER needs a new fixture."""
    assert [path.stem for path in FIXTURES] == [f"renderer_{version}" for version in range(1, RENDERER + 1)]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: str(path.stem))
def test_calls_of_earlier_versions_are_replayed_exactly(face: Face, empty_database: str, path: Path) -> None:
    """Calls whose messages were redacted are the exception."""
    head = restored(path, empty_database)
    kit: Any = face.kit(empty_database, model="another")
    shown = {"exact": 0, "redacted": 0}
    for conversation_id, turn_id, number, _ in every_call(empty_database):
        replay = face.settle(kit.chat(id=conversation_id).replay(turn_id, call=number))
        expected = "redacted" if str(conversation_id) == head["redacted"] else "exact"
        assert replay.status == expected, (turn_id, number, replay.problem)
        shown[replay.status] += 1
    assert shown["exact"] > 5
    assert shown["redacted"] == 2
