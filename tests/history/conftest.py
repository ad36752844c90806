"""A server that numbers its replies."""

from __future__ import annotations

import pytest

from tests.history.helpers import count_replies
from tests.support.server import LoopbackServer


@pytest.fixture
def numbered_replies(server: LoopbackServer) -> None:
    count_replies(server)
