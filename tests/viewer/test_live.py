"""Server-sent events: changes of a conversation, the text of an open turn, and the progress of a check."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from convokit import AsyncConvokit
from convokit.testing import ScriptedModel
from convokit.viewer import live
from tests.viewer.in_process import AsgiViewer, Story

pytestmark = pytest.mark.once


class Events:
    """A stream of the application, read event by event. httpx's transport gives a response when it has ended."""

    def __init__(self, viewer: AsgiViewer, path: str) -> None:
        self.viewer = viewer
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.headers: dict[str, str] = {}
        self.left = asyncio.Event()
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "scheme": "http",
            "server": ("localhost", 80),
            "root_path": "",
        }
        self.task = viewer.loop.create_task(viewer.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message.get("body"):
            self.queue.put_nowait(message["body"])

    def read(self, name: str) -> Any:
        """Return the data of the next event of a name."""

        async def wait() -> Any:
            while True:
                lines = (await self.queue.get()).decode().splitlines()
                if lines[0] == f"event: {name}":
                    return json.loads(lines[1].removeprefix("data: "))

        return self.viewer.wait(wait())

    def leave(self) -> None:
        self.left.set()
        self.viewer.wait(self.task)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_POLL_S", 0.02)


@pytest.mark.usefixtures("fast")
def test_a_page_hears_of_new_messages_and_of_a_text_on_its_way(viewer: AsgiViewer, story: Story, database: str) -> None:
    """`changed` at first and after each write; the text of a turn as its worker stores it. The reader leaves nothing behind."""
    model = ScriptedModel(["一つ目の返事です。"])
    kit = AsyncConvokit(database, model="gpt-4o", api_key="x", http_client=model.async_client())
    events = Events(viewer, f"/c/{story.id}/live")
    assert events.read("changed") == {"last_seq": 14, "last_entry": 22, "open": False}
    assert events.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events.headers["cache-control"] == "no-store"

    async def write() -> None:
        chat = kit.chat(id=story.id)
        await chat.append([{"role": "user", "content": "新しい"}])

    viewer.wait(write())
    assert events.read("changed")["last_seq"] == 15

    async def ask() -> None:
        async with kit.chat(id=story.id).stream("続き") as stream:
            async for _ in stream:
                await asyncio.sleep(0.05)  # the reader looks while the turn is open

    viewer.wait(ask())
    assert events.read("changed")["open"] is True
    assert events.read("text")["text"] == "一つ目の返事です。"
    assert events.read("changed") == {"last_seq": 17, "last_entry": 26, "open": False}
    events.leave()
    assert live._streams == 0
    viewer.wait(kit.close())


def test_a_check_reports_its_progress(viewer: AsgiViewer, story: Story) -> None:
    """The page has its result afterwards, with the name of who asked."""
    events = Events(viewer, f"/c/{story.id}/verify/events")
    assert events.read("progress")["total"] > 0
    assert events.read("done") == {"problem": None}
    viewer.wait(events.task)
    page = viewer.get(f"/c/{story.id}/proof").text
    assert "The chain is whole." in page
    assert "by 監査人" in page


@pytest.mark.usefixtures("fast")
def test_a_stream_ends_with_the_access_of_its_reader(
    viewer: AsgiViewer, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is revoked while a page is open."""
    monkeypatch.setattr(live, "_ACCESS_S", 0.0)
    events = Events(viewer, f"/c/{story.id}/live")
    assert events.read("changed")["last_seq"] == 14
    assert not events.task.done()
    viewer.viewer = None
    viewer.wait(events.task)


def test_a_process_has_a_limit_of_streams(viewer: AsgiViewer, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MAX_STREAMS", 0)
    response = viewer.get(f"/c/{story.id}/live")
    assert (response.status_code, response.headers["retry-after"]) == (503, "30")
