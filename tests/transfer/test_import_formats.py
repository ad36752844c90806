"""Imports of ChatGPT exports and message arrays."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from convokit import Limits
from convokit.context.validity import find_problems
from convokit.errors import BadRecord, ConversationExists, InvalidInput, SettingsError, TransferFailed
from convokit.transfer import import_file
from tests.support.chatgpt import PICTURE, PICTURE_NAME, conversation, node, tree
from tests.support.databases import Files
from tests.support.faces import Face
from tests.support.server import LoopbackServer

ID = "6632a1b4-0001-8000-a000-000000000001"


def into(face: Face, kit: Any, value: Any, **options: Any) -> Any:
    """Import a value as JSON, or text as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    return face.settle(kit.import_(io.StringIO(text), **options))


def list_texts(face: Face, chat: Any) -> list[tuple[str, str]]:
    """Return the path's messages as role and words."""
    return [(each.role, each.text) for each in face.settle(chat.messages())]


def continue_chat(face: Face, chat: Any, server: LoopbackServer) -> list[Any]:
    """Send a message and return what was sent: it must be a valid request, and the chain whole afterwards."""
    assert face.settle(chat.send("go on")).text == "echo: go on"
    face.settle(chat.verify())
    sent: list[Any] = server.requests[-1].body["messages"]
    assert find_problems(sent) == []
    return sent


def test_a_chatgpt_conversation_keeps_its_branches(
    face: Face, kit: Any, server: LoopbackServer, tmp_path: Path
) -> None:
    """Every node with text is a message on its branch, and the branch head is ChatGPT's current node."""
    (tmp_path / PICTURE_NAME).write_bytes(PICTURE)
    (tmp_path / "conversations.json").write_text(json.dumps([conversation()]), "utf-8")
    found = face.settle(kit.import_(tmp_path / "conversations.json", format="chatgpt", trusted=True))
    assert (found.conversations, found.messages, found.skipped) == (1, 12, 0)
    assert found.left_out == {"images": 1, "thoughts": 1}
    chat = kit.chat(f"chatgpt:{ID}")
    (listed,) = face.settle(kit.conversations())
    assert (listed.title, listed.last_seq) == ("猫とポート80", 12)
    assert f"{listed.created_at:%Y-%m-%d}" == "2024-05-01"
    assert list_texts(face, chat) == [
        ("developer", "The user is an administrator.\nAnswer in one sentence."),
        ("user", "この写真は何ですか?"),
        ("assistant", "猫です。"),
        ("user", "Which process listens on port 80? Run it."),
        ("assistant", ""),
        ("tool", "nginx"),
        ("tool", "[image file_00]"),
        ("assistant", "nginx listens on it."),
    ]
    parents = {each["seq"]: each.get("parent_seq") for each in _rows(face, kit, "message")}
    assert [seq for seq, parent in parents.items() if list(parents.values()).count(parent) > 1] == [4, 7, 11, 12]
    results = [each.tool_call_id for each in face.settle(chat.messages()) if each.role == "tool"]
    assert results == ["call_call", "call_call"]  # the second is kept with its call, and not sent
    sent = continue_chat(face, chat, server)
    assert [each["role"] for each in sent].count("tool") == 1
    assert sent[1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert json.loads(sent[4]["tool_calls"][0]["function"]["arguments"]) == {"input": "print(ports()[80])"}


def _rows(face: Face, kit: Any, kind: str) -> list[dict[str, Any]]:
    file = io.StringIO()
    face.settle(kit.export(file))
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    return [line[kind] for line in lines if kind in line]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("changed", [None, 1_600_000_000.0, 1_760_000_000.0])
def test_no_message_is_newer_than_its_conversation(face: Face, kit: Any, changed: float | None) -> None:
    """A search by time relies on this, whatever update time the file names."""
    into(face, kit, [{**conversation(), "update_time": changed}], format="chatgpt")
    newest = max(each.created_at for each in face.settle(kit.chat(f"chatgpt:{ID}").messages()))
    stored = face.settle(kit.conversations()).items[0].updated_at
    assert stored == max(newest, datetime.fromtimestamp(changed or 0, UTC))
    assert len(face.settle(kit.search("nginx"))) > 0


def test_an_imported_conversation_can_be_edited_and_regenerated(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Its branches have leaves and siblings like any other."""
    into(face, kit, [conversation()], format="chatgpt")
    chat = kit.chat(f"chatgpt:{ID}")
    assert {each.text for each in face.settle(chat.leaves())} > {"nginx listens on it.", "It is nginx."}
    asked = next(each for each in face.settle(chat.messages()) if each.text.startswith("Which process"))
    assert len(face.settle(chat.siblings(asked))) == 2
    assert face.settle(chat.regenerate()).text == "echo: Which process listens on port 80? Run it."
    assert face.settle(chat.edit(asked, "And now?")).text == "echo: And now?"
    assert find_problems(server.requests[-1].body["messages"]) == []
    face.settle(chat.verify())


def test_a_chatgpt_import_survives_an_export_and_a_restore(
    face: Face, kit: Any, files: Files, server: LoopbackServer, tmp_path: Path
) -> None:
    """The restored database exports the same messages and sends the same next request."""
    (tmp_path / PICTURE_NAME).write_bytes(PICTURE)
    (tmp_path / "conversations.json").write_text(json.dumps([conversation()], ensure_ascii=False), "utf-8")
    face.settle(kit.import_(tmp_path / "conversations.json", format="chatgpt"))
    face.settle(kit.export(tmp_path / "out.jsonl"))
    other = face.kit(files.empty(), model="loop-1", base_url=server.url)
    face.settle(other.migrate())
    face.settle(other.import_(tmp_path / "out.jsonl", trusted=True))
    for kind in ("message", "blob"):
        assert _rows(face, other, kind) == _rows(face, kit, kind) != []
    chats = [each.chat(f"chatgpt:{ID}") for each in (kit, other)]
    assert list_texts(face, chats[0]) == list_texts(face, chats[1])
    assert continue_chat(face, chats[0], server) == continue_chat(face, chats[1], server)


@pytest.mark.once
def test_a_missing_image_becomes_a_text_with_its_id(face: Face, kit: Any, server: LoopbackServer) -> None:
    into(face, kit, [conversation()], format="chatgpt")
    assert "[image file-Ab3dEf7hIj]\nこの写真は何ですか?" in [
        text for _, text in list_texts(face, kit.chat(f"chatgpt:{ID}"))
    ]
    continue_chat(face, kit.chat(f"chatgpt:{ID}"), server)


def test_a_repeated_chatgpt_import_writes_nothing(face: Face, kit: Any) -> None:
    """A conversation that changed in the file meanwhile raises ConversationExists."""
    value = [conversation(), conversation("6632a1b4-0002-8000-a000-000000000002", "two")]
    assert into(face, kit, value, format="chatgpt").conversations == 2
    found = into(face, kit, value, format="chatgpt")
    assert (found.conversations, found.unchanged) == (0, 2)
    value[1]["title"] = "another"
    with pytest.raises(ConversationExists, match="conversation chatgpt:6632a1b4-0002-8000-a000-000000000002"):
        into(face, kit, value, format="chatgpt")
    assert len(face.settle(kit.conversations())) == 2


BROKEN: dict[str, tuple[Any, str]] = {
    "no tree": (
        lambda it: it["mapping"]["root"].update(parent="a3b"),
        "must be a tree, but 15 nodes are their own ancestors",
    ),
    "no mapping": (lambda it: it.update(mapping=None), "is not from ChatGPT: it has no object .mapping."),
    "no id": (lambda it: [it.pop("id"), it.pop("conversation_id")], "conversation_id: is missing"),
    "a NUL in the id": (lambda it: it.update(conversation_id="a\x00"), "conversation_id: contains NUL"),
    "a long id": (
        lambda it: it.update(conversation_id="x" * 600),
        "conversation_id: 608 characters is over the limit of 512",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_chatgpt_conversation_raises_or_is_skipped(face: Face, kit: Any, name: str) -> None:
    """The error names its line. Skipped, it is not written at all, and the others are."""
    spoil, match = BROKEN[name]
    bad, good = conversation(), conversation("6632a1b4-0002-8000-a000-000000000002")
    spoil(bad)
    text = "[\n" + json.dumps(bad) + ",\n" + json.dumps(good) + "\n]"
    with pytest.raises(BadRecord, match=match) as caught:
        into(face, kit, text, format="chatgpt")
    assert caught.value.line == 2
    assert len(face.settle(kit.conversations())) == 0
    found = into(face, kit, text, format="chatgpt", on_error="skip")
    assert (found.conversations, found.skipped, found.problems[0].line) == (1, 1, 2)


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "line 1: is not a JSON array"),
        ("7", "line 1: is not a JSON array or object"),
        ("{}", "line 1: conversation: is not from ChatGPT"),
        ("[{", "is not JSON: Expecting property name"),
        ("[1 2]", "is not JSON: expected a comma"),
        ("[1,]", "is not JSON: a value is missing"),
        ("[" * 100_000, "is not JSON"),
        ('[{"a": NaN}]', "is not JSON"),
        ("[1] x", "unexpected text after the array"),
        ("\x00", "is not a JSON array"),
    ],
)
def test_invalid_json_is_an_error(face: Face, kit: Any, text: str, match: str) -> None:
    """Skipping ends at a syntax error."""
    with pytest.raises(BadRecord):
        into(face, kit, text, format="chatgpt")
    found = into(face, kit, text, format="chatgpt", on_error="skip")
    assert found.conversations == 0
    assert match in f"line {found.problems[-1].line}: {found.problems[-1].problem}"


@pytest.mark.once
def test_conversations_before_a_truncation_are_imported(face: Face, kit: Any) -> None:
    """The truncation raises, or is reported as skipped."""
    ids = [f"6632a1b4-000{number}-8000-a000-000000000000" for number in range(3)]
    text = json.dumps([conversation(each) for each in ids])[:-300]
    with pytest.raises(BadRecord, match="is not JSON"):
        into(face, kit, text, format="chatgpt")
    found = into(face, kit, text, format="chatgpt", on_error="skip")
    assert (found.conversations, found.unchanged, found.skipped) == (0, 2, 1)


@pytest.mark.once
def test_message_arrays_become_conversations(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Tool calls, images, refusals and names are kept. A first developer message becomes the developer prompt."""
    url = "data:image/png;base64,iVBORw0KGgo="
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    given = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "見て"}, {"type": "image_url", "image_url": {"url": url}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "developer", "content": "Be longer."},
        {"role": "user", "content": "why?", "name": "Ada"},
    ]
    assert into(face, kit, given, format="messages", key="m", trusted=True).messages == 6
    sent = continue_chat(face, kit.chat("m"), server)
    assert sent[0] == {"role": "system", "content": "Be brief."}
    assert sent[1]["content"][1]["image_url"]["url"] == url
    assert sent[2]["tool_calls"] == [call]
    assert [each["role"] for each in sent[3:]] == ["tool", "assistant", "system", "user", "user"]


def test_each_line_of_messages_is_a_conversation(face: Face, kit: Any) -> None:
    """A line is an array, or an object with key, title, subject and metadata. A bad line is skipped."""
    lines = [
        '{"messages": [{"role": "user", "content": "a"}], "key": "a", "title": "題", "subject": "p", "metadata": {"x": 1}}',
        '[{"role": "user", "content": "b"}, {"role": "assistant", "content": "B"}]',
        "",
        "{nonsense",
        '[{"role": "user", "content": 7}]',
        '{"messages": [{"role": "nobody", "content": "c"}]}',
        '[{"role": "user", "content": "d"}]',
    ]
    text = "\n".join(lines)
    with pytest.raises(BadRecord, match="line 4: is not JSON"):
        into(face, kit, text, format="messages", trusted=True)
    found = into(face, kit, text, format="messages", on_error="skip", trusted=True)
    assert (found.conversations, found.unchanged) == (1, 2)
    assert [(each.line, each.problem.partition(":")[0]) for each in found.problems] == [
        (4, "is not JSON"),
        (5, "messages[0].content"),
        (6, "messages[0].role"),
    ]
    listed = {each.key: each for each in face.settle(kit.conversations())}
    assert (listed["a"].title, listed["a"].subject, listed["a"].metadata) == ("題", "p", {"x": 1})
    assert len(listed) == 2
    assert len(face.settle(kit.conversations())) == 3


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_one_json_array_contains_one_conversation_or_several(
    face: Face, kit: Any, indent: int | None, count: int
) -> None:
    """An array of messages is one conversation. An array of arrays or of objects is several."""
    one = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    value: Any = one if count == 1 else [one, {"messages": [*one, *one], "key": "k"}, [*one, one[0]]]
    assert into(face, kit, json.dumps(value, indent=indent), format="messages").conversations == count


POISON: dict[str, list[dict[str, Any]]] = {
    "an orphaned result": [
        {"role": "user", "content": "a"},
        {"role": "tool", "tool_call_id": "nobody's", "content": "x"},
    ],
    "a call without a result": [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
    ],
    "empty messages": [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "user", "content": []},
        {"role": "assistant", "content": [{"type": "text", "text": ""}]},
    ],
    "an answer first": [{"role": "assistant", "content": "hello"}],
    "instructions alone": [{"role": "developer", "content": "be"}],
    "nothing": [],
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", POISON)
def test_every_imported_conversation_can_be_continued(face: Face, kit: Any, server: LoopbackServer, name: str) -> None:
    """Messages that the API would refuse are stored, and left out of the next request."""
    into(face, kit, POISON[name], format="messages", key="k")
    continue_chat(face, kit.chat("k"), server)


@pytest.mark.once
@pytest.mark.parametrize(
    ("message", "match"),
    [
        ({"role": "user", "content": "a\x00b"}, r"messages\[0\].*NUL"),
        ({"role": "user", "content": "\ud800"}, r"messages\[0\].*surrogate"),
        ({"role": "user", "content": "x" * 2000}, "2,000 bytes is over the limit of 1,000 .Limits.message_bytes"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "c"}]}, r"\[0\].tool_calls: None is not 1 to 64"),
        ({"role": "assistant", "content": "", "tool_calls": 7}, r"messages\[0\].tool_calls: must be a list"),
        ({"role": "user", "content": "", "tool_calls": [{"id": "c"}]}, "only an assistant message calls tools"),
        ({"role": "tool", "content": "x"}, "tool_call_id: is missing"),
        ({"role": "assistant", "function_call": {}}, "belongs to an older API"),
        ({"role": "function", "content": "x"}, "must be one of .*, not 'function'"),
        (
            {"role": "assistant", "content": [{"type": "image_url"}]},
            "may contain only text in a message of role assistant",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]},
            r"content\[0\].image_url.url",
        ),
        ({"role": "user", "content": "x", "name": "a b"}, "messages.0..name"),
        ("x", "must be an object, not str"),
    ],
)
def test_a_bad_message_raises_with_its_path(face: Face, kit: Any, database: str, message: Any, match: str) -> None:
    """Text that no database can store, text over a limit, and messages that the API refuses."""
    small = face.kit(database, model="m", limits=Limits(message_bytes=1000))
    with pytest.raises(BadRecord, match=match):
        into(face, small, [message], format="messages")
    assert len(face.settle(kit.conversations())) == 0


@pytest.mark.once
def test_imported_messages_are_counted_by_the_counter_of_the_kit(face: Face, database: str) -> None:
    """Tokens add up along the path of each branch. A kit without a model counts too."""

    class Words:
        name = "words"

        def count(self, text: str) -> int:
            return len(text.split())

    kit = face.kit(database, model="m", counter=Words())
    into(face, kit, [conversation()], format="chatgpt")
    rows = {each["seq"]: each for each in _rows(face, kit, "message")}
    for row in rows.values():
        assert row["counter"] == "words"
        before = rows[row["parent_seq"]]["path_tokens"] if "parent_seq" in row else 0
        assert row["path_tokens"] == before + row["tokens"] > 0
        follows = row.get("parent_seq") == row["seq"] - 1
        assert row["run_start_seq"] == (rows[row["parent_seq"]]["run_start_seq"] if follows else row["seq"])
    assert into(face, face.kit(database), [{"role": "user", "content": "x"}], format="messages").messages == 1


@pytest.mark.once
def test_wrong_arguments_of_an_import_raise(face: Face, kit: Any) -> None:
    with pytest.raises(
        SettingsError, match="format: must be one of jsonl, chatgpt, claude, openwebui, messages, openai"
    ):
        into(face, kit, [], format="csv")
    with pytest.raises(SettingsError, match="on_error"):
        into(face, kit, [], format="messages", on_error="ignore")
    with pytest.raises(InvalidInput, match="key: the format chatgpt takes no key"):
        into(face, kit, [], format="chatgpt", key="k")
    with pytest.raises(InvalidInput, match="key: is empty"):
        into(face, kit, [], format="messages", key="")
    with pytest.raises(BadRecord, match="belongs to one conversation, but the file has more"):
        into(face, kit, '[{"role":"user","content":"a"}]\n[{"role":"user","content":"b"}]', format="messages", key="k")
    with pytest.raises(TransferFailed, match="cannot be read"):
        face.settle(kit.import_("no such file", format="chatgpt"))


@pytest.mark.once
def test_an_import_decodes_utf8_in_chunks(face: Face, kit: Any, tmp_path: Path) -> None:
    """With or without a byte order mark, characters across two chunks, and bytes that are not UTF-8."""
    path = tmp_path / "conversations.json"
    nodes = [node("a", None, "user", "猫" * 70_000), node("b", "a", "assistant", "はい")]
    value = {"id": "x", "title": "t", "mapping": tree(*nodes), "current_node": "b"}
    path.write_text(json.dumps([value], ensure_ascii=False), "utf-8-sig")
    assert face.settle(kit.import_(path, format="chatgpt")).messages == 2
    assert face.settle(kit.chat("chatgpt:x").messages())[0].text == "猫" * 70_000
    path.write_bytes(b'[{"id": "\xff"}]')
    with pytest.raises(BadRecord, match="is not UTF-8 text"):
        face.settle(kit.import_(path, format="chatgpt"))


@pytest.mark.once
def test_a_conversation_over_the_record_limit_is_not_read_into_memory(
    face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One conversation over many lines is read up to the limit. A file of many conversations has no limit."""
    monkeypatch.setattr(import_file, "MAX_RECORD_CHARS", 200_000)
    message = json.dumps({"role": "user", "content": "x" * 1000})
    file = io.StringIO("[\n" + ",\n".join([message] * 2000) + "\n]")
    with pytest.raises(BadRecord, match="line 2: the conversation is longer than 200,000 characters"):
        face.settle(kit.import_(file, format="messages"))
    assert 200_000 < file.tell() < 500_000
    talks = ",\n".join(f'{{"key": "{number}", "messages": [{message}]}}' for number in range(400))
    assert face.settle(kit.import_(io.StringIO(f"[\n{talks}\n]"), format="messages", prefix="")).conversations == 400
