"""Fixtures of the viewer's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.viewer.in_process import AsgiViewer, Story, tell_story, viewing


@pytest.fixture
def story(database: str) -> Story:
    """A conversation with something on every page, on each database."""
    return tell_story(database)


@pytest.fixture
def viewer(database: str, story: Story) -> Iterator[AsgiViewer]:
    """The pages on the database of `story`."""
    with viewing(database) as running:
        yield running


@pytest.fixture
def sqlite_viewer(sqlite_file: str) -> Iterator[AsgiViewer]:
    """The pages on an empty SQLite file, for what does not depend on the database."""
    with viewing(sqlite_file) as running:
        yield running
