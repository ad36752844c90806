"""Send requests to the viewer in this process, without a socket, and build a conversation with something on every page."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, TypeVar
from uuid import UUID

import httpx
from starlette.requests import Request

from convokit import AsyncConvokit, Convokit
from convokit.testing import ScriptedCall, ScriptedModel
from convokit.viewer import Viewer, create_app

Result = TypeVar("Result")
ORIGIN = "http://localhost"


def make_png(width: int = 2, height: int = 2) -> bytes:
    """Return a small red picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + b"\xff\x00\x00" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def encode(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"{city}は晴れ"


@dataclass(frozen=True, slots=True)
class Story:
    """A conversation with something on every page."""

    id: UUID
    first_turn: UUID
    tool_turn: UUID
    last_turn: UUID
    png: str
    """The digest of a picture."""
    svg: str
    """The digest of a file that a browser must not show."""


def tell_story(database: str, *, tenant: str = "default", key: str = "京都") -> Story:
    """Write a conversation: Markdown, a picture, a tool, passages, versions, a branch, and a redaction."""
    model = ScriptedModel(
        [
            "**「重要」**です。\n\n| 駅 | 分 |\n|---|--:|\n| 京都 | 5 |\n\n```python\nprint('京都')\n```",
            "赤い画像です。",
            ScriptedCall("weather", {"city": "京都"}),
            "京都は晴れです。",
            "東京の返事です。",
            "大阪の返事です。",
            "枝の返事です。",
        ]
    )
    with Convokit(
        database,
        tenant=tenant,
        model="gpt-4o",
        api_key="test",
        http_client=model.client(),
        developer_prompt="短く答える",
    ) as kit:
        chat = kit.chat(key, title="京都旅行", subject="花子")
        first = chat.send("旅行の予定は？")
        picture = {"type": "image_url", "image_url": {"url": encode("image/png", make_png())}}
        svg = {"type": "file", "file": {"filename": "図.svg", "file_data": encode("image/svg+xml", SVG)}}
        chat.send([{"type": "text", "text": "これは？"}, picture, svg])
        tool = chat.send("天気は？", tools=[weather])
        chat.send("どちら？", passages=["資料の文"])
        last = chat.regenerate()
        fork = chat.fork(2, name="別案")
        fork.send("別の質問")
        chat.redact(1, author="監査人", reason="本人の依頼")
        parts: Any = chat.messages(limit=None)[2].content
    digests = [parts[1]["image_url"]["url"], parts[2]["file"]["file_data"]]
    assert chat.id is not None
    png, svg_digest = (digest.removeprefix("blob:") for digest in digests)
    return Story(chat.id, first.turn_id, tool.turn_id, last.turn_id, png, svg_digest)


class AsgiViewer:
    """The pages on a database. Its event loop runs while a test waits for an answer."""

    def __init__(self, database: str, *, auth: Any = None, root_path: str = "", **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.viewer: Viewer | None = Viewer(name="監査人")
        self.kit = AsyncConvokit(database, read_only=True, model="gpt-4o", **settings)
        self.app: Any = create_app(self.kit, auth=auth or self._find_viewer)
        self.root_path = root_path

    async def _find_viewer(self, request: Request) -> Viewer | None:
        return self.viewer

    def wait(self, value: Awaitable[Result]) -> Result:
        """Run the loop until a value is there."""

        async def limit() -> Result:
            async with asyncio.timeout(30):
                return await value

        return self.loop.run_until_complete(limit())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request, and again as long as the page says that it waits for a report."""
        response = self.request("GET", path, **options)
        while "refresh" in response.headers:
            response = self.request("GET", path, **options)
        return response

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, root_path=self.root_path)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                return await client.request(method, path, **options)

        return self.wait(send())

    def close(self) -> None:
        self.wait(self.kit.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@contextmanager
def viewing(database: str, **options: Any) -> Iterator[AsgiViewer]:
    """Return a viewer until the block ends."""
    viewer = AsgiViewer(database, **options)
    try:
        yield viewer
    finally:
        viewer.close()


class Parsed(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def links(self) -> list[str]:
        return [str(each["href"]) for each in self.find("a") if each.get("href")]
