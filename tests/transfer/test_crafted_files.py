"""Files that were made to break an import: forged archives, long chains, many small values, broken lines."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from convokit import Limits
from convokit.context.message_draft import MessageDraft
from convokit.errors import TransferFailed
from convokit.transfer import format_chatgpt
from convokit.transfer.drafts import ConversationDraft
from convokit.transfer.format_chatgpt import ChatGPTReader
from convokit.transfer.import_file import ImportFile, read_values
from convokit.transfer.importer import ImportOptions
from tests.support.chatgpt import node, tree
from tests.support.faces import Face
from tests.transfer.test_import_sources import pack

CHAT = json.dumps([{"id": "c", "mapping": tree(node("q", None, "user", "こんにちは"))}]).encode()


def open_text(text: str) -> ImportFile:
    """Return an open file of text."""
    file = ImportFile("file.json", lambda: io.StringIO(text), lambda _id, _limit: None)
    file.open()
    return file


@pytest.mark.once
@pytest.mark.parametrize("name", [b"./.", b"\0xx", b"//."], ids=["dot", "empty", "root"])
def test_a_member_without_a_name_is_no_part_of_an_export(face: Face, kit: Any, tmp_path: Path, name: bytes) -> None:
    archive = pack(tmp_path / "export.zip", {"conversations.json": CHAT, "xxx": b"{}"}).read_bytes()
    found = face.settle(kit.import_(io.BytesIO(archive.replace(b"xxx", name)), format="chatgpt"))
    assert (found.conversations, found.messages) == (1, 1)


def forge_position(offset: int) -> bytes:
    """Return a ZIP64 archive whose only member begins at `offset`."""
    name, extra = b"conversations.json", struct.pack("<HHQQQ", 1, 24, 10, 10, offset)
    numbers = (45, 3, 45, 0, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(name), len(extra), 0, 0, 0, 0, 2**32 - 1)
    directory = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", *numbers) + name + extra
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), 64, 0)
    return b"PK\3\4" + b"\0" * 60 + directory + end


@pytest.mark.once
@pytest.mark.parametrize("offset", [2**40, 2**63, 2**64 - 1])
def test_a_forged_position_in_an_archive_is_an_error_of_the_file(face: Face, kit: Any, offset: int) -> None:
    with pytest.raises(TransferFailed, match="cannot be read"):
        face.settle(kit.import_(io.BytesIO(forge_position(offset)), format="chatgpt"))


class CountedList(list[MessageDraft]):
    """A list that counts its reads."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        """Return an item."""
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.once
def test_many_results_of_tools_in_a_row_cost_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each result has the id of the call above all of them."""
    call = node("n0", None, "assistant", "{}", recipient="python")
    nodes = [call, *(node(f"n{at}", f"n{at - 1}", "tool", "x") for at in range(1, 100))]
    drafts = CountedList()
    monkeypatch.setattr(format_chatgpt, "ConversationDraft", lambda origin: ConversationDraft(origin, messages=drafts))
    ChatGPTReader(open_text(""), ImportOptions(Limits())).convert({"id": "c", "mapping": tree(*nodes)})
    assert {each.tool_call_id for each in drafts if each.role == "tool"} == {"call_n0"}
    assert drafts.reads < 3 * len(nodes)


class CountedText(str):
    """A text that counts the characters of the slices that are taken of it and of its slices."""

    copied_chars = 0

    def __getitem__(self, index: Any) -> CountedText:
        """Return a character or a slice."""
        found = CountedText(super().__getitem__(index))
        CountedText.copied_chars += len(found)
        return found


@pytest.mark.once
def test_many_small_values_behind_a_long_one_cost_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is not copied for every value."""
    monkeypatch.setattr(CountedText, "copied_chars", 0)
    text = CountedText(f'["{"x" * 2**16}",{",".join(["{}"] * 1_000)}]')
    assert sum(1 for _ in read_values(open_text(""), text)) == 1_001
    assert CountedText.copied_chars < 2 * len(text)


@pytest.mark.once
@pytest.mark.parametrize("text", ["[\n\n{},\n{\n},\n\n{} ,{}\n]\n", "\n\n{}\n{\n}\n\n{} {}"])
def test_each_value_of_a_file_has_its_own_line(text: str) -> None:
    assert [line for line, _ in read_values(open_text(text))] == [3, 4, 7, 7]


@pytest.mark.once
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_line_that_is_not_utf8_costs_only_itself(face: Face, kit: Any, bad: int) -> None:
    lines = [json.dumps([{"role": "user", "content": f"{at}"}]).encode() for at in range(3)]
    lines[bad] = b'"\xff"'
    found = face.settle(kit.import_(io.BytesIO(b"\n".join(lines)), format="messages", on_error="skip"))
    assert (found.conversations, [each.line for each in found.problems]) == (2, [bad + 1])


@pytest.mark.once
def test_a_text_file_that_is_not_utf8_is_not_read_on(face: Face, kit: Any) -> None:
    """Python's text files lose the lines around such a byte, so nothing is skipped in silence."""
    good = b'[{"role": "user", "content": "x"}]\n'
    file = io.TextIOWrapper(io.BytesIO(good + b'"\xff"\n' + good), encoding="utf-8")
    with pytest.raises(TransferFailed, match="open it in binary mode"):
        face.settle(kit.import_(file, format="messages", on_error="skip"))


@pytest.mark.once
@pytest.mark.parametrize(("title", "kept"), [("長" * 3000, 512), (7, None), (["x"], None), ("\ud800\0", 2)])
@pytest.mark.parametrize("format", ["chatgpt", "claude", "openwebui"])
def test_a_title_never_costs_its_conversation(face: Face, kit: Any, format: str, title: Any, kept: int | None) -> None:
    messages = [{"role": "user", "sender": "human", "content": "x", "text": "x"}]
    value = {
        "chatgpt": {"id": "c", "title": title, "mapping": tree(node("q", None, "user", "x"))},
        "claude": {"uuid": "c", "name": title, "chat_messages": messages},
        "openwebui": {"id": "c", "title": title, "chat": {"messages": messages}},
    }[format]
    assert face.settle(kit.import_(io.StringIO(json.dumps(value)), format=format)).messages == 1
    found = face.settle(kit.conversations()).items[0].title
    assert (found and len(found)) == kept


@pytest.mark.once
@pytest.mark.parametrize("trusted", [True, False])
def test_vendor_keys_of_tool_calls_need_trust(face: Face, kit: Any, trusted: bool) -> None:
    """A server that refuses an unknown key would refuse every later request."""
    call = {
        "id": "c",
        "type": "function",
        "extra_content": {"a": "b"},
        "function": {"name": "f", "arguments": "{}", "x": 1},
    }
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    text = io.StringIO(json.dumps({"messages": messages}))
    found = face.settle(kit.import_(text, format="messages", key="k", trusted=trusted))
    (stored,) = face.settle(kit.chat("k").messages())[1].tool_calls
    assert ("extra_content" in stored, "x" in stored["function"]) == (trusted, trusted)
    assert found.left_out == ({} if trusted else {"vendor_keys": 2})
