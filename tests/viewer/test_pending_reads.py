"""Reads that take longer than a page may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from convokit import Convokit
from convokit.errors import StoreUnavailable
from convokit.testing import ScriptedModel
from convokit.viewer import Viewer, pending_reads
from convokit.viewer.pending_reads import PendingReads
from tests.viewer.in_process import AsgiViewer, Story

pytestmark = pytest.mark.once


def test_a_page_waits_for_its_report(viewer: AsgiViewer, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads itself again. JSON and CSV are complete at once, and another tenant has its own report."""
    monkeypatch.setattr(pending_reads, "_WAIT_S", 0)
    for language, text in (("en", "being added up"), ("ja", "集計しています")):
        first = viewer.request("GET", "/usage?by=model", headers={"accept-language": language})
        assert (first.status_code, first.headers["refresh"]) == (200, "1")
        assert text in first.text
        assert "gpt-4o" not in first.text
        assert '<option value="model" selected>' in first.text
        page = viewer.get("/usage?by=model", headers={"accept-language": language})
        assert text not in page.text
        assert "gpt-4o" in page.text
    assert viewer.request("GET", "/usage.json?by=model").json()["report"]["rows"][0]["model"] == "gpt-4o"
    assert "gpt-4o" in viewer.request("GET", "/usage.csv?by=model").text
    viewer.request("GET", "/usage?by=model")
    viewer.viewer = Viewer(tenant="other")
    assert "gpt-4o" not in viewer.get("/usage?by=model").text
    viewer.viewer = Viewer()
    assert "gpt-4o" in viewer.get("/usage?by=model").text


def test_a_page_waits_for_the_next_request(viewer: AsgiViewer, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page loads itself again. JSON is complete at once."""
    monkeypatch.setattr(pending_reads, "_WAIT_S", 0)
    for language, text in (("en", "being built"), ("ja", "組み立てています")):
        first = viewer.request("GET", f"/c/{story.id}/next", headers={"accept-language": language})
        assert (first.status_code, first.headers["refresh"]) == (200, "1")
        assert text in first.text
        page = viewer.get(f"/c/{story.id}/next", headers={"accept-language": language})
        assert text not in page.text
        assert "table-list" in page.text
    assert viewer.request("GET", f"/c/{story.id}/next.json").json()["context"]["messages"]


def test_a_report_that_nobody_took_up_is_not_shown_later(
    viewer: AsgiViewer, story: Story, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page takes up a report of this minute. Later it is added up anew."""
    monkeypatch.setattr(pending_reads, "_WAIT_S", 0)

    def wait_for_report() -> None:
        assert "refresh" in viewer.request("GET", "/usage?by=model").headers
        viewer.wait(asyncio.sleep(0.5))

    wait_for_report()
    model = ScriptedModel(["はい。"])
    with Convokit(database, model="gpt-5-mini", api_key="x", http_client=model.client()) as kit:
        kit.chat("later").send("？")
    assert "gpt-5-mini" not in viewer.get("/usage?by=model").text
    wait_for_report()
    assert "gpt-5-mini" in viewer.get("/usage?by=model").text
    wait_for_report()
    with Convokit(database, model="gpt-5-nano", api_key="x", http_client=ScriptedModel(["はい。"]).client()) as kit:
        kit.chat("later").send("？")
    monkeypatch.setattr(pending_reads, "_KEPT_S", 0)
    assert "refresh" in viewer.request("GET", "/usage?by=model").headers
    monkeypatch.setattr(pending_reads, "_KEPT_S", 60)
    assert "gpt-5-nano" in viewer.get("/usage?by=model").text


def test_pending_reads_are_bounded_and_their_errors_are_raised() -> None:
    pending, started = PendingReads(), []

    def start(number: int) -> Callable[[], Awaitable[str]]:
        async def read() -> str:
            started.append(number)
            await asyncio.sleep(60)
            raise AssertionError

        return read

    async def fail() -> str:
        await asyncio.sleep(0.1)
        raise StoreUnavailable("db", "gone")

    async def check() -> None:
        for number in range(12):
            assert await pending.read((str(number),), start(number)) is None
        assert await pending.read(("11",), start(11)) is None
        assert started == list(range(12))
        await asyncio.sleep(0)
        assert len([each for each in asyncio.all_tasks() if each is not asyncio.current_task()]) == 8
        assert await pending.read(("x",), fail) is None
        await asyncio.sleep(0.1)
        with pytest.raises(StoreUnavailable):
            await pending.read(("x",), fail)

    asyncio.run(check())
