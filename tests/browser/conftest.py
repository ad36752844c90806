"""Fixtures: a browser, the viewer, and a page that is signed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.running_viewer import RunningViewer, find_browser, running_viewer
from tests.viewer.in_process import Story, tell_story

OpenPage = Callable[..., Page]


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield running
        running.close()


@pytest.fixture
def story(sqlite_file: str) -> Story:
    return tell_story(sqlite_file)


@pytest.fixture
def viewer(sqlite_file: str, story: Story) -> Iterator[RunningViewer]:
    with running_viewer(sqlite_file) as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, viewer: RunningViewer) -> Iterator[OpenPage]:
    """Return a function that opens a path in a browser that is signed in. No page may have an error in its script."""
    errors: list[str] = []
    contexts: list[Any] = []
    state: list[Any] = []

    def open_path(path: str = "/", **options: Any) -> Page:
        given = {"locale": "en-US", "timezone_id": "Asia/Tokyo", "viewport": {"width": 1100, "height": 800}, **options}
        if state:
            given.setdefault("storage_state", state[0])
        context = browser.new_context(**given)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        if not state:
            page.goto(viewer.link)
            state.append(context.storage_state())
        page.goto(viewer.url + path)
        return page

    yield open_path
    for context in contexts:
        context.close()
    assert errors == []
