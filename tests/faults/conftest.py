"""What the harnesses that kill processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import work
from tests.faults.nursery import Nursery, opened


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A process that forks children quickly."""
    with opened(tmp_path_factory.mktemp("nursery")) as made:
        yield made


@pytest.fixture
def far_server() -> Iterator[work.Server]:
    """A model server in this process that those children can reach."""
    running = work.Server()
    running.start()
    yield running
    running.stop()
