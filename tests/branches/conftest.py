"""What every test of this folder begins with."""

from __future__ import annotations

import pytest

from tests.branches.talk import count_replies
from tests.support.server import LoopbackServer


@pytest.fixture(autouse=True)
def _numbered(server: LoopbackServer) -> None:
    count_replies(server)
