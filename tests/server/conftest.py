"""Fixtures of the gateway's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.in_process import AsgiGateway, serving


@pytest.fixture
def gateway(sqlite_file: str) -> Iterator[AsgiGateway]:
    """A gateway without keys."""
    with serving(sqlite_file) as running:
        yield running


@pytest.fixture
def guarded(sqlite_file: str) -> Iterator[AsgiGateway]:
    """A gateway with keys."""
    with serving(sqlite_file, auth=None) as running:
        yield running
