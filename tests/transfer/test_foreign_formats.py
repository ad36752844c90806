"""Exports of ChatGPT as they are, of Claude and Open WebUI, fine-tuning files, times, and files that are only recognised."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from convokit.errors import BadRecord
from convokit.transfer.timestamps import MAX_TIME_US, read_time
from tests.support.chatgpt import node, tree
from tests.support.faces import Face
from tests.support.server import LoopbackServer
from tests.transfer.test_import_formats import continue_chat, into, list_texts
from tests.transfer.test_text_formats import export_text

ROOT = node("root", None)
ASKED = node("q", "root", "user", "こんにちは")
ANSWERED = node("a", "q", "assistant", "はい")


def spoiled(**changes: Any) -> dict[str, Any]:
    """Return a node between question and answer whose message is changed."""
    made = node("x", "q", "assistant", "x")
    made["message"] |= changes
    return made


NODES: dict[str, tuple[Any, int]] = {
    "content null": (spoiled(content=None), 0),
    "author null": (spoiled(author=None), 1),
    "role null": (spoiled(author={"role": None}), 1),
    "a role that nobody knows": (spoiled(author={"role": "critic"}), 1),
    "a role that is a list": (spoiled(author={"role": ["user"]}), 1),
    "parts null": (spoiled(content={"content_type": "text", "parts": None}), 0),
    "parts of null": (spoiled(content={"content_type": "text", "parts": [None]}), 0),
    "parts of a number": (spoiled(content={"content_type": "text", "parts": [7]}), 1),
    "a content type that is a list": (spoiled(content={"content_type": ["text"], "parts": []}), 0),
    "a content type that is an object": (spoiled(content={"content_type": {}, "text": None}), 0),
    "message text": ({"id": "x", "parent": "q", "message": "x"}, 0),
    "no message": ({"id": "x", "parent": "q"}, 0),
}


@pytest.mark.once
@pytest.mark.parametrize("name", NODES)
def test_a_bad_node_is_stepped_over(face: Face, kit: Any, name: str) -> None:
    """The message below it follows the message above it. Words that are lost are counted."""
    bad, lost = NODES[name]
    nodes = {each["id"]: each for each in (ROOT, ASKED, bad, {**ANSWERED, "parent": "x"})}
    found = into(face, kit, [{"id": "c", "mapping": nodes, "current_node": "a"}], format="chatgpt")
    assert list_texts(face, kit.chat("chatgpt:c")) == [("user", "こんにちは"), ("assistant", "はい")]
    assert sum(found.left_out.values()) == lost


@pytest.mark.once
@pytest.mark.parametrize(
    ("node_id", "value"),
    [("x", None), ("x", 7), ("q", {"parent": "q"}), ("root", {"parent": "a"}), ("x", {"id": "x", "parent": ["q"]})],
)
def test_a_bad_link_costs_no_more_than_its_node(face: Face, kit: Any, node_id: str, value: Any) -> None:
    """A node that is no object, its own parent, or below itself."""
    side = node("side", None, "user", "beside")
    nodes = {**tree(ROOT, ASKED, ANSWERED), "side": side}
    nodes[node_id] = {**nodes.get(node_id, {}), **value} if isinstance(value, dict) else value
    assert into(face, kit, [{"id": "c", "mapping": nodes, "current_node": "a"}], format="chatgpt").messages == 3
    assert list_texts(face, kit.chat("chatgpt:c")) == [("user", "こんにちは"), ("assistant", "はい")]


@pytest.mark.once
def test_a_root_that_is_its_own_parent_is_a_root(face: Face, kit: Any) -> None:
    nodes = tree(ROOT, ASKED, ANSWERED)
    nodes["root"] = {**nodes["root"], "parent": "root"}
    assert into(face, kit, [{"id": "c", "mapping": nodes, "current_node": "a"}], format="chatgpt").messages == 2


@pytest.mark.once
def test_unstorable_text_of_chatgpt_is_repaired(face: Face, kit: Any, server: LoopbackServer) -> None:
    """As replies are: NUL and lone surrogates become U+FFFD."""
    nodes = tree(ROOT, node("q", "root", "user", "a\x00b"), node("a", "q", "assistant", "c\ud83dd"))
    into(face, kit, {"id": "c", "title": "t\udc00", "mapping": nodes, "current_node": "a"}, format="chatgpt")
    assert list_texts(face, kit.chat("chatgpt:c")) == [("user", "a\ufffdb"), ("assistant", "c\ufffdd")]
    assert face.settle(kit.conversations()).items[0].title == "t\ufffd"
    continue_chat(face, kit.chat("chatgpt:c"), server)


CLAUDE = {
    "uuid": "c1",
    "name": "題",
    "created_at": "2024-05-01T00:00:00.000001Z",
    "updated_at": "2024-05-02T00:00:00+09:00",
    "account": {"uuid": "somebody"},
    "chat_messages": [
        {
            "uuid": "1",
            "sender": "human",
            "text": "見て",
            "content": [{"type": "text", "text": "見て"}],
            "created_at": "2024-05-01T00:00:01Z",
            "attachments": [{"file_name": "a.txt", "extracted_content": "猫"}],
            "files": [{"file_name": "b.png"}],
        },
        {
            "uuid": "2",
            "sender": "assistant",
            "text": "",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "はい"},
                {"type": "tool_use", "name": "f", "input": {}},
                {"type": "tool_result", "name": "f", "content": []},
                {"type": "text", "text": "いいえ"},
            ],
        },
    ],
}


@pytest.mark.once
def test_a_claude_export_is_imported(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Text and the text of attachments, with times. Thoughts, tool calls and binary files are counted."""
    found = into(face, kit, [CLAUDE, {"uuid": "c2", "chat_messages": []}], format="claude")
    assert (found.conversations, found.messages) == (2, 2)
    assert found.left_out == {"calls": 1, "files": 1, "thoughts": 1, "tool_results": 1}
    chat = kit.chat("claude:c1")
    assert list_texts(face, chat) == [("user", "見て\n[a.txt]\n猫"), ("assistant", "はい\nいいえ")]
    listed = {each.key: each for each in face.settle(kit.conversations())}["claude:c1"]
    assert (listed.title, listed.created_at) == ("題", datetime(2024, 5, 1, 0, 0, 0, 1, tzinfo=UTC))
    assert listed.updated_at == datetime(2024, 5, 1, 15, tzinfo=UTC)
    assert into(face, kit, [CLAUDE], format="claude").unchanged == 1
    continue_chat(face, chat, server)


def test_branches_of_claude_are_kept(face: Face, kit: Any) -> None:
    """The head is the leaf that the export names, else the last message."""
    root = "00000000-0000-4000-8000-000000000000"
    links = [("1", root, "human"), ("2", "1", "assistant"), ("3", "1", "assistant"), ("4", root, "human")]
    messages = [{"uuid": id_, "parent_message_uuid": parent, "sender": who, "text": id_} for id_, parent, who in links]
    value = {"uuid": "c", "chat_messages": messages, "current_leaf_message_uuid": "2"}
    into(face, kit, [value], format="claude")
    chat = kit.chat("claude:c")
    assert [text for _, text in list_texts(face, chat)] == ["1", "2"]
    assert {each.text for each in face.settle(chat.leaves())} == {"2", "3", "4"}


def test_an_open_webui_export_is_imported(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Every branch, the current message, and images whose data is in the file."""
    image = "data:image/png;base64,iVBORw0KGgo="
    nodes = {
        "1": {
            "parentId": None, "childrenIds": ["2", "3"], "role": "user", "content": "見て", "timestamp": 1_714_521_600,
            "files": [{"type": "image", "url": image}, {"type": "file", "url": "/api/v1/files/1"}],
        },
        "2": {"parentId": "1", "childrenIds": [], "role": "assistant", "content": "猫"},
        "3": {"parentId": "1", "childrenIds": [], "role": "assistant", "content": "犬"},
        "4": {"parentId": "3", "childrenIds": [], "role": "system", "content": "planted"},
    }  # fmt: skip
    chat = {"title": "題", "models": ["m"], "history": {"messages": nodes, "currentId": "2"}, "messages": []}
    value: list[Any] = [{"id": "w1", "user_id": "u", "title": "題", "chat": chat, "created_at": 1_714_521_600}]
    found = into(face, kit, value, format="openwebui")
    assert (found.messages, found.left_out) == (3, {"files": 1, "instructions": 1})
    imported = kit.chat("openwebui:w1")
    assert list_texts(face, imported) == [("user", "見て"), ("assistant", "猫")]
    assert len(face.settle(imported.leaves())) == 2
    assert continue_chat(face, imported, server)[0]["content"][1]["image_url"]["url"] == image
    assert f"{face.settle(kit.conversations()).items[0].created_at:%Y-%m-%d}" == "2024-05-01"
    flat = {"chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}}
    assert into(face, kit, flat, format="openwebui").messages == 2


SHAREGPT = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
LANGCHAIN = [{"type": "human", "data": {"content": "a"}}, {"type": "ai", "data": {"content": "b"}}]
PREFERENCE = {"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}
SERIALIZED = [{"lc": 1, "type": "constructor", "id": ["langchain", "schema", "HumanMessage"], "kwargs": {}}]
OPEN_WEBUI = {"id": "w", "chat": {"history": {"messages": {}}}}


@pytest.mark.once
@pytest.mark.parametrize("form", ["jsonl", "chatgpt", "claude", "openwebui", "messages", "openai"])
@pytest.mark.parametrize(
    ("value", "name", "own"),
    [
        (SHAREGPT, "a ShareGPT file, which convokit does not read", ""),
        ([SHAREGPT], "a ShareGPT file", ""),
        (LANGCHAIN, "a LangChain file, which convokit does not read", ""),
        ({"messages": LANGCHAIN}, "a LangChain file", ""),
        (SERIALIZED, "a LangChain file", ""),
        (PREFERENCE, "preference data for fine-tuning", ""),
        ([CLAUDE], 'an export of Claude: import it with format "claude"', "claude"),
        ([OPEN_WEBUI], 'an export of Open WebUI: import it with format "openwebui"', "openwebui"),
        ([{"id": "c", "mapping": {}}], 'an export of ChatGPT: import it with format "chatgpt"', "chatgpt"),
        ({"convokit": {"version": 1}}, 'an export of convokit: import it with format "jsonl"', "jsonl"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_of_another_format_is_named(
    face: Face, kit: Any, form: str, value: Any, name: str, own: str, indent: int | None
) -> None:
    """The error names the program, and the format to use if there is one."""
    if form == own:
        return
    with pytest.raises(BadRecord, match=f"it looks like {name}"):
        into(face, kit, json.dumps(value, indent=indent), format=form)


@pytest.mark.once
def test_times_of_message_arrays_are_kept(face: Face, kit: Any) -> None:
    """Of the conversation and of each message. A message without a time has that of the conversation."""
    messages = [
        {"role": "user", "content": "a", "created_at": "2020-01-02T03:04:05+09:00"},
        {"role": "assistant", "content": "b", "timestamp": 1_577_990_000_123},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "timestamp": "yesterday"},
    ]
    found = into(face, kit, {"messages": messages}, format="messages", key="k")
    assert found.left_out == {"times": 1}
    times = [each.created_at for each in face.settle(kit.chat("k").messages())]
    first, second = datetime(2020, 1, 1, 18, 4, 5, tzinfo=UTC), datetime.fromtimestamp(1_577_990_000.123, UTC)
    assert times == [first, second, first, first]
    (listed,) = face.settle(kit.conversations())
    assert (listed.created_at, listed.updated_at) == (first, second)
    receipt = face.settle(kit.erase(older_than=timedelta(days=365), dry_run=True))
    assert receipt.conversations == 1
    into(
        face,
        kit,
        {"messages": messages[2:3], "created_at": 1_600_000_000, "updated_at": 1_700_000_000},
        format="openai",
    )
    listed = face.settle(kit.conversations()).items[0]
    assert (listed.created_at.timestamp(), listed.updated_at.timestamp()) == (1_600_000_000, 1_700_000_000)


NO_TIMES: list[Any] = [None, True, -1, 1e17, 10**400, float("inf"), float("nan"), [], {}]
NO_TIMES += ["nan", "1e999", "", "x", "0001-01-01T00:00:00+23:59", "1969-12-31", "9999-12-31T23:59:59-01:00"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        (1_714_521_600, 1_714_521_600_000_000),
        (1_714_521_600.5, 1_714_521_600_500_000),
        (1_714_521_600_500, 1_714_521_600_500_000),
        (1_714_521_600_500_000, 1_714_521_600_500_000),
        ("1714521600", 1_714_521_600_000_000),
        ("2024-05-01T00:00:00Z", 1_714_521_600_000_000),
        ("2024-05-01 09:00:00.5+09:00", 1_714_521_600_500_000),
        ("2024-05-01", 1_714_521_600_000_000),
        (0, 0),
        ("9999-12-31T23:59:59Z", MAX_TIME_US),
        *((value, None) for value in NO_TIMES),
    ],
)
def test_a_time_is_read_in_every_form(value: Any, microseconds: int | None) -> None:
    assert read_time(value) == microseconds


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SAMPLES: dict[str, Any] = {
    "weights": {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "bad", "weight": 0},
            {"role": "user", "content": "q2"},
            {"role": "assistant", "content": "良い", "weight": 1},
        ]
    },
    "instructions": {
        "messages": [
            {"role": "system", "content": "短く。"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ]
    },
    "tools": {
        "messages": [
            {"role": "developer", "content": "Use f."},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "1", "tool_call_id": "c"},
            {"role": "assistant", "content": "one"},
        ],
        "tools": TOOLS,
        "parallel_tool_calls": False,
    },
    "a call at the end": {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 1},
        ],
        "tools": TOOLS,
    },
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_fine_tuning_sample_survives_the_round_trip(
    face: Face, kit: Any, server: LoopbackServer, name: str, *, trusted: bool
) -> None:
    """What belongs to training is exported again, and is in no request."""
    text = json.dumps(SAMPLES[name], ensure_ascii=False, separators=(",", ":")) + "\n"
    into(face, kit, text, format="openai", key="k", trusted=trusted)
    assert json.loads(export_text(face, kit, "openai")) == SAMPLES[name]
    rival = kit.tenant("rival")
    into(face, rival, export_text(face, kit, "jsonl"), trusted=True)
    assert json.loads(export_text(face, rival, "openai")) == SAMPLES[name]
    face.settle(kit.chat("k").send("go on"))
    body = server.requests[-1].body
    assert not {"tools", "parallel_tool_calls"} & body.keys()
    assert "weight" not in json.dumps(body)
    face.settle(kit.chat("k").verify())


@pytest.mark.once
def test_fields_that_are_left_out_are_counted(face: Face, kit: Any) -> None:
    message = {"role": "user", "content": "q", "mood": "good", "id": None}
    answer = {"role": "assistant", "content": "a", "weight": 0.5}
    found = into(face, kit, {"messages": [message, answer], "source": "x"}, format="openai")
    assert found.left_out == {"fields": 3}


@pytest.mark.once
@pytest.mark.parametrize(
    "part", [{"type": "refusal"}, {"type": "refusal", "refusal": 7}, {"type": ["text"]}, {"type": {}}]
)
def test_a_malformed_part_is_a_bad_record(face: Face, kit: Any, part: Any) -> None:
    with pytest.raises(BadRecord, match=r"messages\[0\].content"):
        into(face, kit, [{"role": "assistant", "content": [part]}], format="messages")


@pytest.mark.once
def test_an_indented_object_is_one_conversation(face: Face, kit: Any) -> None:
    """Objects over many lines may follow each other; a bad line among lines is only itself."""
    one = json.dumps({"messages": [{"role": "user", "content": "a"}]}, indent=2)
    two = json.dumps({"messages": [{"role": "user", "content": "b"}]}, indent=2)
    assert into(face, kit, f"{one}\n{two}\n", format="messages").conversations == 2
    found = into(
        face, kit, '{nonsense\n{"messages": [{"role": "user", "content": "c"}]}\n', format="messages", on_error="skip"
    )
    assert (found.conversations, found.skipped) == (1, 1)
