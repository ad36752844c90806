"""Items of stored conversations: their ids, their order, and what it costs to find them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from convokit import AsyncChat
from convokit.runtime.async_store import AsyncStore
from tests.support.gateway import MODEL, RunningGateway, running_gateway

pytestmark = pytest.mark.once
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


@pytest.fixture
def gateway(sqlite_file: str) -> Iterator[RunningGateway]:
    with running_gateway(sqlite_file) as running:
        yield running


@pytest.fixture
def api(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.base_url, timeout=30) as client:
        yield client


def ask(api: httpx.Client, given: Any, **body: Any) -> dict[str, Any]:
    answer = api.post("/responses", json={"model": MODEL, "input": given, **body})
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


def talk(api: httpx.Client, turns: int) -> tuple[str, list[str]]:
    """Return a conversation of some turns, and the ids of its replies."""
    conversation = api.post("/conversations", json={}).json()["id"]
    replies = [ask(api, f"q{number}", conversation=conversation) for number in range(turns)]
    return conversation, [reply["output"][0]["id"] for reply in replies]


def read_pages(api: httpx.Client, path: str, order: str) -> list[str]:
    """Return the ids of all items, read in pages of three."""
    ids: list[str] = []
    while True:
        after = {"after": ids[-1]} if ids else {}
        page = api.get(path, params={"limit": 3, "order": order, **after}).json()
        ids += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            return ids


def test_a_page_has_the_same_ids_in_both_orders_and_reads_no_turn(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply has the id that its response had, also at the edge of a page. Each id reads its item."""
    conversation, replies = talk(api, 4)
    path = f"/conversations/{conversation}/items"
    ascending = read_pages(api, path, "asc")
    assert ascending[1::2] == replies
    assert read_pages(api, path, "desc") == ascending[::-1]
    assert [api.get(f"{path}/{each}").json()["id"] for each in ascending] == ascending

    async def refuse(*_: Any) -> None:
        raise AssertionError("a turn was read")

    monkeypatch.setattr(AsyncChat, "turn", refuse)
    assert len(api.get(path, params={"limit": 100}).json()["data"]) == 8


def test_references_read_their_conversation_once(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that names each earlier reply by its id, as the AI SDK does, costs as much at 12 replies as at 4."""
    counts = []
    run = AsyncStore.run
    for turns in (4, 12):
        _, replies = talk(api, turns)
        given: list[Any] = []
        for number, reply in enumerate(replies):
            given += [{"role": "user", "content": f"q{number}"}, {"type": "item_reference", "id": reply}]
        calls: list[Any] = []

        async def count(self: AsyncStore, call: Any, *, write: bool = False, calls: list[Any] = calls) -> Any:
            calls.append(call)
            return await run(self, call, write=write)

        monkeypatch.setattr(AsyncStore, "run", count)
        ask(api, [*given, {"role": "user", "content": "next"}])
        monkeypatch.setattr(AsyncStore, "run", run)
        counts.append(len(calls))
    # The longer history is looked up in two batches.
    assert counts[1] <= counts[0] + 1


def test_a_reference_to_an_image_brings_its_data(gateway: RunningGateway, api: httpx.Client) -> None:
    """The message goes into another conversation, which stores the image itself."""
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
    items = [{"role": "user", "content": [image]}, {"role": "assistant", "content": "a pixel"}]
    created = api.post("/conversations", json={"items": items}).json()["id"]
    [first, second] = api.get(f"/conversations/{created}/items", params={"order": "asc"}).json()["data"]
    references = [{"type": "item_reference", "id": first["id"]}, {"id": second["id"]}]
    ask(api, [*references, {"role": "user", "content": "are you sure?"}])
    sent = gateway.model.requests[-1].messages
    assert sent[0]["content"][0]["image_url"]["url"] == image["image_url"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert gateway.count_stored() == [4, 2]
