"""Requests with many messages, on pages that stay small."""

from __future__ import annotations

import pytest

from convokit import Chat, Convokit, NewMessage
from convokit.testing import ScriptedModel
from tests.support.statements import count_statements
from tests.viewer.in_process import AsgiViewer, Parsed

pytestmark = pytest.mark.once
COUNT = 600


@pytest.fixture
def request_path(viewer: AsgiViewer, database: str) -> str:
    """The path of a call that sent 601 messages and a developer prompt."""
    with _talk(database) as kit:
        reply = _append(kit).send("まとめてください。")
    return f"/c/{reply.message.id.partition(':')[0]}/t/{reply.turn_id}/1"


def _talk(database: str) -> Convokit:
    model = ScriptedModel(["はい。"])
    return Convokit(database, model="gpt-4o", api_key="x", http_client=model.client(), developer_prompt="短く答える。")


def _append(kit: Convokit) -> Chat:
    chat, roles = kit.chat("long"), ("user", "assistant")
    chat.append([NewMessage(roles[number % 2], f"京都の話、その{number + 1}。" * 12) for number in range(COUNT)])
    return chat


def test_a_long_request_is_shown_from_its_end(viewer: AsgiViewer, request_path: str) -> None:
    """Each message once, going back page by page. The developer prompt is on every page, folded, with its digest."""
    seen: list[str] = []
    path: str | None = request_path
    pages = 0
    while path is not None:
        response = viewer.get(path)
        assert len(response.content) < 200_000
        page = Parsed(response.text)
        assert "短く答える。" in page.text
        assert len(page.find("details")) == 1
        seqs = [str(each["href"]).rpartition("#m")[2] for each in page.find("a") if each.get("class") == "seq"]
        seen = [*seqs, *seen]
        path = next((str(each["href"]) for each in page.find("a") if each.get("rel") == "prev"), None)
        pages += 1
    assert seen == [str(seq) for seq in range(1, COUNT + 2)]
    assert pages == 7
    assert "Messages 503 to 602 of the 602 in the request." in viewer.get(request_path).text
    digest = viewer.get(f"{request_path}.json").json()["replay"]["prompt"]
    assert f"<code>{digest[:12]}</code>" in viewer.get(request_path).text


def test_a_long_window_is_cut(viewer: AsgiViewer, request_path: str) -> None:
    """The newest 300 messages, with the numbers and tokens of all."""
    viewer.get(f"{request_path}/window")
    with count_statements() as statements:
        response = viewer.get(f"{request_path}/window")
    assert len(statements) <= 6, statements
    assert len(response.content) < 200_000
    assert "301 earlier messages of the window are not shown here." in response.text
    window = viewer.get(f"{request_path}/window.json").json()["window"]
    assert (len(window["parts"]), window["sent_messages"]) == (300, COUNT + 1)


def test_the_next_request_takes_few_statements(viewer: AsgiViewer, database: str) -> None:
    """Also where no reply says where a window started."""
    with _talk(database) as kit:
        conversation = _append(kit).id
    viewer.get(f"/c/{conversation}/next")
    with count_statements() as statements:
        value = viewer.get(f"/c/{conversation}/next.json").json()
    assert len(value["context"]["messages"]) == COUNT
    assert len(statements) <= 6, statements
