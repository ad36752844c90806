"""Every page on both databases: what it shows, as HTML and as JSON, and what it costs."""

from __future__ import annotations

import io
import json
import re
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from convokit import Convokit
from convokit.testing import ScriptedModel
from convokit.viewer import files
from convokit.viewer.routes import _FILES
from tests.history.helpers import change
from tests.support.statements import count_statements
from tests.viewer.in_process import AsgiViewer, Parsed, Story, make_png

pytestmark = pytest.mark.once


def test_every_link_leads_somewhere(viewer: AsgiViewer, story: Story) -> None:
    """All links of all pages, followed once, from the list of conversations on."""
    waiting: list[str] = ["/"]
    seen: set[str] = set()
    forms: set[str] = set()
    while waiting:
        path = waiting.pop().partition("#")[0]
        shape = re.sub(r"[0-9a-f-]{36}|\d+", "N", path)
        if path in seen or (shape in forms and len(seen) > 150):
            continue
        seen.add(path)
        forms.add(shape)
        response = viewer.get(path)
        assert response.status_code == 200, (path, response.text)
        if response.headers["content-type"].startswith("text/html"):
            links = Parsed(response.text).links()
            assert all(link.startswith(("/", "?", "#")) for link in links), links
            waiting += [link for link in links if link.startswith("/")]
    assert len(seen) > 60


def test_a_conversation_shows_its_messages(viewer: AsgiViewer, story: Story) -> None:
    page = viewer.get(f"/c/{story.id}").text
    assert "京都旅行" in page
    assert "<strong>「重要」</strong>です" in page
    assert '<div class="code-language">python</div>' in page
    assert f"/c/{story.id}/blob/{story.png}" in page
    assert "Removed on" in page
    assert "監査人" in page
    assert "本人の依頼" in page
    assert "旅行の予定" not in page
    assert "京都は晴れ" in page
    assert "&quot;city&quot;: &quot;京都&quot;" in page
    assert '<a href="#m7">' in page
    assert "answers message 6" in page
    assert "資料の文" in page
    value = viewer.get(f"/c/{story.id}.json").json()
    assert value["history"]["messages"][0]["status"] == "redacted"
    assert value["history"]["removals"][0]["removal"]["author"] == "監査人"


def test_a_permalink_marks_its_message(viewer: AsgiViewer, story: Story) -> None:
    """On the branch and off it, and without the message: not found."""
    for seq in (3, 11, 13):
        page = Parsed(viewer.get(f"/c/{story.id}/m/{seq}").text)
        (target,) = [each for each in page.find("article") if each.get("aria-current")]
        assert target["id"] == f"m{seq}"
        with count_statements() as statements:
            viewer.get(f"/c/{story.id}/m/{seq}")
        assert len(statements) <= 6, statements
    assert viewer.get(f"/c/{story.id}/m/99").status_code == 404
    assert viewer.get(f"/k/{quote('京都')}").headers["location"] == f"/c/{story.id}"
    assert viewer.get("/k/unknown").status_code == 404


def test_versions_are_compared_by_characters(viewer: AsgiViewer, story: Story) -> None:
    page = viewer.get(f"/c/{story.id}/m/11/versions").text
    assert "<del>東京</del><ins>大阪</ins>の返事です。" in page
    value = viewer.get(f"/c/{story.id}/m/11/versions.json").json()
    assert [each["seq"] for each in value["versions"]] == [11, 12]
    assert "There is no other version" in viewer.get(f"/c/{story.id}/m/4/versions").text
    for seq, number, other in ((11, 1, 12), (12, 2, 11)):
        page = viewer.get(f"/c/{story.id}/m/{seq}").text
        assert f"version {number} of 2" in page
        assert f'href="/c/{story.id}/m/{other}#m{other}" aria-label="' in page
        assert f"版 {number} / 2" in viewer.get(f"/c/{story.id}/m/{seq}", headers={"accept-language": "ja"}).text


def test_a_request_is_shown_as_it_was_sent(viewer: AsgiViewer, story: Story, database: str) -> None:
    """Exact bytes with their download, a redacted request, and one whose row was changed."""
    path = f"/c/{story.id}/t/{story.tool_turn}/1"
    page = viewer.get(path).text
    assert "A part was removed since" in page
    assert "message 1 was redacted" in page
    with Convokit(database, model="gpt-4o", api_key="x", http_client=ScriptedModel(["元気です。"]).client()) as kit:
        chat = kit.chat("別")
        reply = chat.send("元気？")
        body, other = chat.replay(reply).body, chat.id
    assert body is not None
    path = f"/c/{other}/t/{reply.turn_id}/1"
    page = viewer.get(path).text
    assert "Exactly as it was sent." in page
    assert f"Its {len(body):,} bytes" in page
    assert f'<a class="seq" href="/c/{other}/m/1#m1">1</a>' in page
    assert viewer.get(f"{path}/body.json").content == body
    assert "元気？" in viewer.get(f"{path}?view=json").text
    assert "--data-binary" in viewer.get(f"{path}?view=bytes").text
    assert viewer.get(f"{path}?view=other").status_code == 400
    assert viewer.get(f"/c/{story.id}/t/{story.tool_turn}/1/body.json").status_code == 404


def test_the_window_of_a_past_call(viewer: AsgiViewer, story: Story) -> None:
    page = viewer.get(f"/c/{story.id}/t/{story.last_turn}/1/window").text
    assert "passage of this turn" in page
    assert "in the window" in page
    assert "of 128,000 tokens" in page
    page = viewer.get(f"/c/{story.id}/next").text
    assert "Fill of the window" in page
    assert "128,000" not in page.partition("<main")[0]


def test_a_chain_is_verified_on_request_alone(viewer: AsgiViewer, story: Story, database: str) -> None:
    """Never at page load; whole, then broken, which its other pages show; and the removals."""
    proof = f"/c/{story.id}/proof"
    assert "was not verified" in viewer.get(proof).text
    assert "The chain is whole." in viewer.get(f"/c/{story.id}/verify").text
    assert "The chain is whole." in viewer.get(proof).text
    change(database, "UPDATE convokit_message SET content = '改ざん' WHERE seq = 4")
    assert "The chain is whole." in viewer.get(proof).text
    assert "The chain is broken." in viewer.get(f"/c/{story.id}/verify").text
    assert "found the chain of this conversation broken" in viewer.get(f"/c/{story.id}").text
    removals = viewer.get(f"/c/{story.id}/removals").text
    assert "本人の依頼" in removals
    assert "監査人" in removals


def test_a_chain_is_compared_with_a_checkpoint(viewer: AsgiViewer, story: Story, database: str) -> None:
    """One that agrees, another key, no checkpoint, and a chain that was cut off since. Nothing of the form is shown again."""
    key = "k" * 32
    with Convokit(database, read_only=True) as kit:
        text = kit.checkpoint(key=key).text
    path = f"/c/{story.id}/proof"

    def compare(checkpoint: str | None, key: str) -> str:
        response = viewer.request("POST", path, data={"checkpoint": checkpoint, "key": key})
        assert response.status_code == 200
        assert key not in response.text
        return response.text

    assert "The chain continues the one in the checkpoint." in compare(text, key)
    assert "its signature does not match" in compare(text, "x" * 32)
    assert "is not a checkpoint, or cut off" in compare("nothing", key)
    assert "use a random secret" in compare(text, "short")
    assert viewer.request("POST", path, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    change(database, "DELETE FROM convokit_entry WHERE number = 22")
    change(database, "UPDATE convokit_conversation SET last_entry = 21")
    assert "The chain is broken." in compare(text, key)


def test_search_finds_two_japanese_characters(viewer: AsgiViewer, story: Story) -> None:
    """Marks, filters, no hits. A query that is the id of a turn, a message or a conversation, or a key, goes straight there."""
    turn = f"/c/{story.id}/t/{story.last_turn}"
    assert "<mark>重要</mark>" in viewer.get("/search", params={"q": "重要"}).text
    page = viewer.get("/search", params={"q": "鑿鱚", "role": "user"}).text
    assert "Nothing was found for “鑿鱚”." in page
    assert "search without them" in page
    for query, path in (
        (f"{story.id}:4", f"/c/{story.id}/m/4#m4"),
        (str(story.id), f"/c/{story.id}"),
        ("京都", f"/c/{story.id}"),
        (str(story.last_turn), turn),
        (story.last_turn.hex, turn),
        (f"chatcmpl-{story.id.hex}{story.last_turn.hex}", turn),
        (f"resp_{story.id.hex}{story.last_turn.hex}", turn),
        (f"msg_{story.id.hex}{story.last_turn.hex}", turn),
        (f"fco_{story.id.hex}_7_1", f"/c/{story.id}/m/7#m7"),
        (f"conv_{story.id.hex}", f"/c/{story.id}"),
    ):
        assert viewer.get("/search", params={"q": query}).headers["location"] == path
    assert viewer.get("/search", params={"q": str(uuid4())}).status_code == 200
    assert viewer.get("/search", params={"q": "x", "role": "robot"}).status_code == 400
    assert viewer.get("/search", params={"q": "。。"}).status_code == 400
    assert viewer.get("/search").status_code == 200


def test_usage_as_page_and_as_csv(viewer: AsgiViewer, story: Story) -> None:
    """Unknown is never 0, and a name that a spreadsheet would compute is quoted."""
    page = viewer.get("/usage?by=model").text
    assert "gpt-4o" in page
    assert "unknown" in page
    table = viewer.get("/usage.csv?by=conversation").text.splitlines()
    assert table[0].startswith("conversation_id,key,calls,prompt_tokens")
    assert table[1].split(",")[1] == "京都"
    assert viewer.get("/usage?by=week").status_code == 400


def test_binaries_are_shown_only_if_they_are_harmless(
    viewer: AsgiViewer, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a page only if they are small."""
    shown = viewer.get(f"/c/{story.id}/blob/{story.png}")
    assert (shown.content, shown.headers["content-type"]) == (make_png(), "image/png")
    assert "content-disposition" not in shown.headers
    kept = viewer.get(f"/c/{story.id}/blob/{story.svg}")
    assert kept.headers["content-type"] == "application/octet-stream"
    assert kept.headers["content-disposition"].startswith("attachment")
    for response in (shown, kept):
        assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
    inside = viewer.get(f"/c/{story.id}/blob/{story.png}", headers={"sec-fetch-dest": "image"})
    assert inside.content == make_png()
    monkeypatch.setattr(files, "_MAX_IMAGE_BYTES", 10)
    inside = viewer.get(f"/c/{story.id}/blob/{story.png}", headers={"sec-fetch-dest": "image"})
    assert (inside.status_code, inside.content) == (413, b"")
    for headers in ({}, {"sec-fetch-dest": "document"}, {"sec-fetch-dest": "audio"}):
        assert viewer.get(f"/c/{story.id}/blob/{story.png}", headers=headers).content == make_png()
    assert viewer.get(f"/c/{story.id}/blob/{'0' * 64}").status_code == 404
    assert viewer.get(f"/c/{story.id}/blob/x").status_code == 400


@pytest.mark.parametrize("suffix", ["jsonl", "md", "openai.jsonl"])
def test_an_export_is_what_the_kit_exports(viewer: AsgiViewer, story: Story, suffix: str, database: str) -> None:
    response = viewer.get(f"/c/{story.id}/export.{suffix}")
    assert quote(f"京都.{suffix}") in response.headers["content-disposition"]
    text = io.StringIO()
    formats: Any = {"jsonl": "jsonl", "md": "markdown", "openai.jsonl": "openai"}
    with Convokit(database, read_only=True) as kit:
        kit.export(text, format=formats[suffix], conversations=[story.id])
    if suffix == "jsonl":  # the first line has the time, and the last one a digest
        assert response.text.splitlines()[1:-1] == text.getvalue().splitlines()[1:-1]
    else:
        assert response.text == text.getvalue()
    assert viewer.get(f"/c/{story.id}/export.exe").status_code == 400


def test_a_raw_text_is_plain(viewer: AsgiViewer, story: Story) -> None:
    response = viewer.get(f"/c/{story.id}/m/2/raw")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text.startswith("**「重要」**です。")


def test_all_files_are_listed(story: Story) -> None:
    """A new route of a file needs a test here."""
    assert len(_FILES) == 10


def test_json_is_what_the_page_shows(viewer: AsgiViewer, story: Story) -> None:
    value = json.loads(viewer.get("/conversations.json").text)
    assert [each["key"] for each in value["conversations"]] == ["京都"]
    assert viewer.get("/conversations.json?open=maybe").json()["error"]["status"] == 400
    assert viewer.get(f"/c/{story.id}/m/99.json").json()["error"]["status"] == 404
