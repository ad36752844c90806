"""Exports of training data and Markdown."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from sqlalchemy import update

from convokit.context.validity import find_problems
from convokit.errors import Interrupted, Rejected
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import message
from tests.support.chatgpt import conversation
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls, failure, stream
from tests.support.server import completion as answered


def add(left: int, right: int) -> int:
    """Add.

    Args:
        left: one
        right: the other
    """
    return left + right


def export_text(face: Face, kit: Any, form: str, **options: Any) -> str:
    """Return an export's text."""
    file = io.StringIO()
    face.settle(kit.export(file, format=form, **options))
    return file.getvalue()


def read_training_data(face: Face, kit: Any) -> list[Any]:
    """Return the lines of training data; each must be what the API accepts."""
    lines = [json.loads(line) for line in export_text(face, kit, "openai").splitlines()]
    for line in lines:
        assert find_problems(line["messages"]) == []
        assert line["messages"][-1]["role"] == "assistant"
    return lines


def test_training_data_contains_only_complete_turns(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Failed, interrupted and unanswered turns and passages are left out. Tools and prompt are included."""
    chat = kit.chat("k", developer_prompt="日本語で。")
    face.settle(chat.send("一", passages=["retrieved"]))
    server.script(failure(400, "no"))
    with pytest.raises(Rejected):
        face.settle(chat.send("fails"))
    server.script(stream(["cut"], finish=None, done=False))
    with pytest.raises(Interrupted):
        face.collect(chat.stream("breaks"))
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"left": 1, "right": 2}'}}
    server.script(answered(None, tool_calls=[call]))
    face.settle(chat.send("add", tools=[add]))
    (line,) = read_training_data(face, kit)
    assert [(each["role"], each["content"]) for each in line["messages"]] == [
        ("developer", "日本語で。"),
        ("user", "一"),
        ("assistant", "echo: 一"),
        ("user", "add"),
        ("assistant", None),
        ("tool", "3"),
        ("assistant", "echo: 3"),
    ]
    assert [each["function"]["name"] for each in line["tools"]] == ["add"]


def test_training_data_contains_results_from_the_caller(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Results belong to the turn of the calls, alone and with a question. Calls without results are left out."""
    schema = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
    chat = kit.chat("k", tools=[schema])
    server.script(calls(("c1", "pay", "{}")))
    face.settle(chat.send("alone"))
    face.settle(chat.send(tool_results={"c1": "一"}))
    server.script(calls(("c2", "pay", "{}"), ("c3", "pay", "{}")))
    face.settle(chat.send("with a question"))
    face.settle(chat.send("and now?", tool_results={"c3": "三"}, passages=["retrieved"]))
    server.script(calls(("c4", "pay", "{}")))
    face.settle(chat.send("never answered"))
    server.script(failure(400, "no"))
    with pytest.raises(Rejected):
        face.settle(chat.send("fails", tool_results={"c4": "四"}))
    (line,) = read_training_data(face, kit)
    assert [(each["role"], each["content"]) for each in line["messages"]] == [
        ("user", "alone"),
        ("assistant", None),
        ("tool", "一"),
        ("assistant", "echo: 一"),
        ("user", "with a question"),
        ("assistant", None),
        ("tool", "三"),
        ("user", "and now?"),
        ("assistant", "echo: and now?"),
    ]
    assert [each["id"] for each in line["messages"][5]["tool_calls"]] == ["c3"]


def test_training_data_follows_one_path_and_contains_images(face: Face, kit: Any) -> None:
    """A line is one conversation. A conversation without a complete turn has no line."""
    url = "data:image/png;base64,iVBORw0KGgo="
    part = {"type": "image_url", "image_url": {"url": url}}
    face.settle(kit.import_(io.StringIO(json.dumps([conversation()])), format="chatgpt"))
    face.settle(kit.chat("k").send(["see", part]))
    alone = io.StringIO('[{"role": "user", "content": "nobody answers"}]')
    face.settle(kit.import_(alone, format="messages"))
    lines = read_training_data(face, kit)
    assert len(lines) == 2
    (seen,) = [line["messages"] for line in lines if len(line["messages"]) == 2]
    assert seen[0]["content"][1] == part
    (talk,) = [line["messages"] for line in lines if len(line["messages"]) > 2]
    assert talk[-1]["content"] == "nginx listens on it."
    assert "It is nginx." not in json.dumps(talk)


def test_training_data_leaves_out_redacted_turns(face: Face, kit: Any, database: str) -> None:
    """Without its question, the reply would look like the answer to another one."""
    for text in ("kept", "removed", "kept too"):
        face.settle(kit.chat("k").send(text))
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(update(message).where(message.c.seq == 3).values(status="redacted", content=None, salt=None))
    engine.dispose()
    (line,) = read_training_data(face, kit)
    assert [each["content"] for each in line["messages"]] == ["kept", "echo: kept", "kept too", "echo: kept too"]
    assert ", redacted\n" in export_text(face, kit, "markdown")


def test_imported_training_data_exports_unchanged(face: Face, kit: Any, server: LoopbackServer) -> None:
    chat = kit.chat("k", developer_prompt="Be brief.")
    for text in ("一", "二"):
        face.settle(chat.send(text))
    before = export_text(face, kit, "openai")
    rival = kit.tenant("rival")
    face.settle(rival.import_(io.StringIO(before), format="messages"))
    assert export_text(face, rival, "openai") == before


HOSTILE = "# 見出し\n```python\nprint('never closed')\n\n## assistant, 2026\n<!-- <script>\r---\r\n> quoted\u2028x"


def test_no_text_breaks_out_of_its_markdown_quote(face: Face, kit: Any) -> None:
    """Each message is a heading with role and time, and a block quote with all its text."""
    chat = kit.chat("k", title="題 [*x*](javascript:1)\n# y", subject="<人>")
    face.settle(chat.send(HOSTILE))
    text = export_text(face, kit, "markdown", key="k")
    lines = text.split("\n")
    assert lines[0] == "# 題 \\[\\*x\\*\\](javascript:1) \\# y"
    headings = [line for line in lines if line.startswith("##")]
    assert [each.split(",")[0] for each in headings] == ["## user", "## assistant"]
    assert headings[0].endswith(" UTC")
    for line in lines[3:]:
        assert line == "" or line.startswith((">", "## user", "## assistant"))
    assert "> # 見出し" in lines
    assert "> ## assistant, 2026" in lines


def test_markdown_fences_tool_calls_and_counts_other_branches(face: Face, kit: Any) -> None:
    value = conversation()
    value["mapping"]["result"]["message"]["content"]["text"] = "````\nout of it"
    face.settle(kit.import_(io.StringIO(json.dumps([value])), format="chatgpt"))
    text = export_text(face, kit, "markdown")
    assert "> `````\n> ````\n> out of it\n> `````" in text
    assert '"name": "python"' in text
    assert "*4 messages on other branches are not shown.*" in text
