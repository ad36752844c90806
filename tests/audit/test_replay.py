"""Replay: every call can be shown again, byte for byte, from what is stored of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.audit.recordings import SCENES, Stage, every_call
from tests.support.faces import Face
from tests.support.server import LoopbackServer


@pytest.fixture
def stage(face: Face, database: str, server: LoopbackServer) -> Stage:
    return Stage(face, database, server)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.__name__))
def test_every_request_is_shown_again_exactly(stage: Stage, scene: Callable[[Stage], None]) -> None:
    """Whatever a request was made with, a kit with none of its settings shows the very bytes that the server received."""
    scene(stage)
    kit: Any = stage.face.kit(stage.database, model="another", developer_prompt="Something else.", partial="mark")
    bodies: Counter[bytes] = Counter()
    for conversation_id, turn_id, number in every_call(stage.database):
        shown = stage.do(kit.chat(id=conversation_id).replay(turn_id, call=number))
        assert shown.status == "exact", (number, shown.problem)
        assert (shown.turn_id, shown.call) == (turn_id, number)
        if number < 1000:  # a late call is the row of a reply, its request was another's
            bodies[shown.body] += 1
    assert bodies == Counter(request.raw for request in stage.server.requests)
