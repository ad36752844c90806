"""What the harnesses that kill processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import jobs
from tests.faults.fork_server import ForkServer, opened


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A process that forks children quickly."""
    with opened(tmp_path_factory.mktemp("fork_server")) as made:
        yield made


@pytest.fixture
def far_server() -> Iterator[jobs.Server]:
    """A model server in this process that those children can reach."""
    running = jobs.Server()
    running.start()
    yield running
    running.stop()
