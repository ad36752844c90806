"""A kit with a small window and a summary, and the model that writes it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.completion.summaries import (
    BUDGET,
    ONCE,
    SUMMARY,
    Writer,
)
from tests.support.faces import Face
from tests.support.server import LoopbackServer


@pytest.fixture
def writer(server: LoopbackServer) -> Writer:
    made = Writer()
    server.answer = made
    return made


@pytest.fixture
def summed(face: Face, database: str, server: LoopbackServer, writer: Writer) -> Any:
    """A kit with a small budget and a summary."""
    assert writer.made == 0
    return face.kit(
        database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE, developer_prompt="Brief."
    )
