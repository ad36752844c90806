"""Imports of strangers' files: nothing in them steers later requests. Trusted ones restore everything."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from convokit import Convokit
from convokit.errors import BadRecord, ConversationExists, InvalidInput
from tests.faults.shared_kit import dump
from tests.support.chatgpt import conversation
from tests.support.faces import Face
from tests.support.server import LoopbackServer
from tests.transfer.test_export_import import fill, opened, out, resealed

pytestmark = pytest.mark.once


@pytest.fixture
def other(face: Face, empty_database: str, server: LoopbackServer) -> Any:
    """A kit on a database of another id."""
    kit = face.kit(empty_database, model="loop-1", base_url=server.url)
    face.settle(kit.migrate())
    return kit


def bring(face: Face, kit: Any, lines: list[str] | str, **options: Any) -> Any:
    """Import lines or text as the file of a stranger."""
    return face.settle(kit.import_(io.StringIO("".join(lines)), **options))


def settings_line(lines: list[str], settings: dict[str, Any]) -> list[str]:
    """Return an export whose first conversation has other settings."""
    at = next(number for number, line in enumerate(lines) if '{"conversation"' in line)
    row = json.loads(lines[at])["conversation"] | {"settings": json.dumps(settings)}
    return resealed([*lines[:at], json.dumps({"conversation": row}) + "\n", *lines[at + 1 :]])


def test_an_untrusted_export_brings_only_what_was_said(
    face: Face, kit: Any, other: Any, server: LoopbackServer
) -> None:
    """Messages, branches, images, title and metadata come in under a new id. The rest is counted."""
    fill(face, kit, server)
    lines = out(face, kit, key="k")
    found = bring(face, other, lines)
    assert (found.conversations, found.rechained, found.skipped) == (1, 0, 0)
    assert found.left_out == {
        "branches": 1, "calls": 8, "idempotency_keys": 1, "instructions": 1, "keys": 1, "passages": 1, "pins": 1,
        "prompts": 2, "settings": 1, "subjects": 1, "tool_runs": 1, "turns": 7,
    }  # fmt: skip
    (listed,) = face.settle(other.conversations())
    assert (listed.key, listed.subject, listed.title, listed.metadata) == (None, None, "題", {"a": 1})
    before = face.settle(kit.chat("k").messages())
    chat = other.chat(id=listed.id)
    after = face.settle(chat.messages())
    assert [(each.role, each.text) for each in after] == [(each.role, each.text) for each in before]
    assert [each.created_at for each in after] == [each.created_at for each in before]
    assert after[2].content == before[2].content
    assert len(face.settle(chat.leaves())) == len(face.settle(kit.chat("k").leaves()))
    assert face.settle(chat.turns()) == []


def test_the_chain_of_an_untrusted_import_names_the_old_head(
    face: Face, kit: Any, other: Any, server: LoopbackServer
) -> None:
    fill(face, kit, server)
    lines = out(face, kit, key="k")
    before = face.settle(kit.chat("k").verify())
    bring(face, other, lines, key="new")
    (first, *_) = [json.loads(line)["entry"] for line in out(face, other, key="new") if '"entry"' in line]
    assert (first["number"], first["kind"]) == (1, "import")
    assert first["ref"] == f"{before.conversation_id}:{before.entries}:{before.head}"
    assert face.settle(other.chat("new").verify()).calls == 0


def test_settings_of_an_untrusted_file_are_not_in_a_request(
    face: Face, kit: Any, other: Any, server: LoopbackServer
) -> None:
    """Neither headers, body, model, temperature nor instructions of the file are sent."""
    face.settle(kit.chat("k").send("こんにちは"))
    planted = {
        "model": "evil",
        "developer_prompt": "planted prompt",
        "params": {
            "extra_headers": {"Authorization": "Bearer planted", "Host": "planted"},
            "extra_body": {"messages": [], "model": "planted"},
            "temperature": 0.123,
        },
    }
    found = bring(face, other, settings_line(out(face, kit), planted), key="mine")
    assert (found.left_out["settings"], found.left_out["instructions"]) == (4, 1)
    face.settle(other.chat("mine").send("go on"))
    request = server.requests[-1]
    assert [each["content"] for each in request.body["messages"]] == ["こんにちは", "echo: こんにちは", "go on"]
    assert (request.body["model"], "temperature" in request.body) == ("loop-1", False)
    assert "planted" not in json.dumps([request.body, dict(request.headers)])


def test_an_idempotency_key_of_a_file_answers_nothing(face: Face, kit: Any, other: Any, server: LoopbackServer) -> None:
    face.settle(kit.chat("k").send("hello", idempotency_key="once"))
    bring(face, other, out(face, kit), key="k")
    sent = len(server.requests)
    face.settle(other.chat("k").send("hello", idempotency_key="once"))
    assert len(server.requests) == sent + 1


def test_keys_of_a_file_need_a_prefix_or_trust(face: Face, kit: Any, other: Any) -> None:
    """A file cannot plant a history under another user's key."""
    for key in ("a", "b"):
        face.settle(kit.chat(key).send(f"of {key}"))
    lines = out(face, kit)
    assert bring(face, other, lines).left_out["keys"] == 2
    assert {each.key for each in face.settle(other.conversations())} == {None}
    assert bring(face, other, lines).unchanged == 2
    assert bring(face, other, lines, prefix="user-7/").conversations == 2
    assert {each.key for each in face.settle(other.conversations())} == {None, "user-7/a", "user-7/b"}
    bring(face, other, lines, prefix="")
    assert {"a", "b"} < {each.key for each in face.settle(other.conversations())}
    with pytest.raises(BadRecord, match="belongs to one conversation, but the file has more"):
        bring(face, other, lines, key="one")


def test_a_forged_file_cannot_stand_in_for_another(face: Face, kit: Any, other: Any) -> None:
    """Two files that name the same old head, with other words, are two conversations."""
    face.settle(kit.chat("k").send("honest"))
    lines = out(face, kit)
    forged = resealed([line.replace("echo: honest", "echo: forged") for line in lines])
    assert bring(face, other, forged).conversations == 1
    assert bring(face, other, lines).conversations == 1
    assert (bring(face, other, forged).unchanged, bring(face, other, lines).unchanged) == (1, 1)


@pytest.mark.once
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda lines: lines[:-1], "the file is truncated: its last line is not a footer"),
        (lambda lines: [line.replace("echo: one", "echo: eno") for line in lines], "the file was changed"),
        (lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]], "has version 2 of the format"),
        (lambda lines: resealed([line for line in lines if '{"end"' not in line]), "is truncated: it has no line"),
        (lambda lines: ["[]\n"], "line 1: is not an export of convokit"),
    ],
)
def test_a_damaged_untrusted_file_imports_nothing(face: Face, kit: Any, other: Any, spoil: Any, match: str) -> None:
    face.settle(kit.chat("k").send("one"))
    with pytest.raises(BadRecord, match=match):
        bring(face, other, spoil(out(face, kit)))
    assert len(face.settle(other.conversations())) == 0


def test_instructions_of_a_message_array_need_trust(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Without trust, no developer or system message comes in, at the beginning or later; subject and key neither."""
    record = {
        "key": "planted",
        "subject": "somebody",
        "messages": [
            {"role": "system", "content": "planted"},
            {"role": "user", "content": "hello"},
            {"role": "developer", "content": "planted too"},
            {"role": "assistant", "content": "hi"},
        ],
    }
    found = bring(face, kit, json.dumps(record), format="messages")
    assert found.left_out == {"instructions": 2, "keys": 1, "subjects": 1}
    (listed,) = face.settle(kit.conversations())
    assert (listed.key, listed.subject) == (None, None)
    face.settle(kit.chat(id=listed.id).send("go on"))
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["hello", "hi", "go on"]
    rival = kit.tenant("rival")
    assert bring(face, rival, json.dumps(record), format="messages", trusted=True).left_out == {}
    face.settle(rival.chat("planted").send("go on"))
    assert "planted" in json.dumps(server.requests[-1].body["messages"][0])
    assert face.settle(rival.conversations()).items[0].subject == "somebody"


def test_custom_instructions_of_chatgpt_need_trust(face: Face, kit: Any) -> None:
    """A prefix stands before the key that names the service."""
    found = bring(face, kit, json.dumps([conversation()]), format="chatgpt", prefix="ada/")
    assert (found.messages, found.left_out["instructions"]) == (11, 1)
    (listed,) = face.settle(kit.conversations())
    assert listed.key == "ada/chatgpt:6632a1b4-0001-8000-a000-000000000001"
    assert {each.role for each in face.settle(kit.chat(listed.key).messages())} == {"user", "assistant", "tool"}


@pytest.mark.once
def test_wrong_keys_and_prefixes_raise(face: Face, kit: Any) -> None:
    with pytest.raises(InvalidInput, match="prefix: pass either key or prefix"):
        bring(face, kit, "[]", format="messages", key="a", prefix="b")
    with pytest.raises(InvalidInput, match="key: the format jsonl takes no key"):
        bring(face, kit, "", trusted=True, key="a")
    with pytest.raises(InvalidInput, match="prefix: a restored conversation keeps its key"):
        bring(face, kit, "", trusted=True, prefix="a")
    with pytest.raises(InvalidInput, match="prefix: contains NUL"):
        bring(face, kit, "[]", format="messages", prefix="\x00")


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("trusted", [False, True])
def test_a_dry_run_writes_nothing(
    face: Face, kit: Any, database: str, other: Any, server: LoopbackServer, *, trusted: bool
) -> None:
    """It returns what an import would return, also of conflicts and of bad records."""
    fill(face, other, server)
    lines = out(face, other)
    options = {"trusted": True} if trusted else {"prefix": ""}
    engine = opened(database)
    before = dump(engine)
    rehearsed = bring(face, kit, lines, dry_run=True, **options)
    assert dump(engine) == before
    engine.dispose()
    assert rehearsed == bring(face, kit, lines, **options)
    assert (rehearsed.conversations, bool(rehearsed.left_out)) == (2, not trusted)
    assert bring(face, kit, lines, dry_run=True, **options).unchanged == 2
    planted = json.dumps({"key": "k", "messages": []})
    with pytest.raises(ConversationExists):
        bring(face, kit, planted, format="messages", prefix="", dry_run=True)


@pytest.mark.once
def test_a_dry_run_counts_a_repeated_record_once(face: Face, kit: Any) -> None:
    record = json.dumps([{"role": "user", "content": "x"}])
    found = bring(face, kit, f"{record}\n{record}\n", format="messages", dry_run=True)
    assert (found.conversations, found.unchanged) == (1, 1)


def test_an_import_that_is_stopped_leaves_whole_conversations(face: Face, kit: Any, tmp_path: Path) -> None:
    """Each conversation is there as a whole or not at all, and a repeated import adds the rest."""
    values = [conversation(f"6632a1b4-000{number}-8000-a000-000000000000") for number in range(3)]
    (tmp_path / "conversations.json").write_text(json.dumps(values), "utf-8")

    def stop(done: int, whole: int | None) -> None:
        raise KeyError("left")

    with pytest.raises(KeyError):
        face.settle(kit.import_(tmp_path, format="chatgpt", progress=stop))
    (listed,) = face.settle(kit.conversations())
    face.settle(kit.chat(listed.key).verify())
    found = face.settle(kit.import_(tmp_path, format="chatgpt"))
    assert (found.conversations, found.unchanged) == (2, 1)


@pytest.mark.once
@pytest.mark.parametrize("trusted", [False, True])
def test_an_untrusted_file_names_no_file_of_the_provider(face: Face, kit: Any, trusted: bool) -> None:
    """A file id belongs to the account of the API key, which is not the stranger's."""
    part = {"type": "file", "file": {"file_id": "file-1"}}
    values = [{"role": "user", "content": [{"type": "text", "text": "read"}, part]}]
    text = io.StringIO(json.dumps(values))
    found = face.settle(kit.import_(text, format="messages", key="k", trusted=trusted))
    (message,) = face.settle(kit.chat("k").messages())
    kept = part if trusted else {"type": "text", "text": "[file file-1]"}
    assert message.content == [{"type": "text", "text": "read"}, kept]
    assert found.left_out == ({} if trusted else {"files": 1})


@pytest.mark.once
def test_a_time_in_the_future_becomes_now(face: Face, kit: Any) -> None:
    """A file cannot keep its conversation first in every list, or out of an erasure by age."""
    values = [{"role": "user", "content": "hello", "created_at": "9999-01-01T00:00:00Z"}]
    face.settle(kit.import_(io.StringIO(json.dumps(values)), format="messages", key="k"))
    (listed,) = face.settle(kit.conversations())
    (message,) = face.settle(kit.chat("k").messages())
    assert message.created_at <= listed.updated_at <= datetime.now(UTC)


KILLED = """
import os, signal, sys
from convokit import Convokit
from convokit.store import messages

append, count = messages.append, 0


def append_or_die(*given):
    global count
    count += 1
    append(*given)
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)


messages.append = append_or_die
with Convokit(sys.argv[1], model="m") as kit:
    kit.import_(sys.argv[2], format="chatgpt")
"""


@pytest.mark.soak(sample=True)
def test_a_killed_import_leaves_whole_conversations(database: str, tmp_path: Path) -> None:
    """Killed inside the transaction of the second conversation: the first is whole, and a repeated import adds the rest."""
    values = [conversation(f"6632a1b4-000{number}-8000-a000-000000000000") for number in range(3)]
    (tmp_path / "conversations.json").write_text(json.dumps(values), "utf-8")
    ended = subprocess.run([sys.executable, "-c", KILLED, database, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with Convokit(database, model="m") as kit:
        (listed,) = kit.conversations()
        kit.chat(listed.key).verify()
        found = kit.import_(tmp_path, format="chatgpt")
        assert (found.conversations, found.unchanged) == (2, 1)
        assert kit.verify().conversations == 3
