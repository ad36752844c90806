"""Items that other programs keep with their messages: verbatim, proven, and never sent."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from sqlalchemy import event

from convokit import Budget, Convokit, NewMessage, Summary
from convokit.errors import ChainBroken
from tests.history.helpers import change, rows, seqs
from tests.support.faces import Face
from tests.support.server import LoopbackServer

KIND = "agents/1"
SECRET = "秘密の計画 secret plan"
ITEMS: list[Any] = [
    {"type": "reasoning", "id": "rs_1", "encrypted_content": SECRET, "summary": []},
    {
        "type": "message",
        "text": "a\0b",
        "cut": "\ud83d",
        "emoji": "🎌",
        "n": 10**400,
        "f": 1e-7,
        "deep": [[{"": None}]],
    },
    ["晴れ", True, None],
    SECRET,
    0,
]
NOTE = NewMessage("system", f"note {SECRET}", kind=KIND, item={"note": SECRET})
EMPTY = NewMessage("assistant", kind=KIND, item=ITEMS[0])
BATCH = [
    NewMessage("user", "質問", kind=KIND, item=ITEMS[1]),
    EMPTY,
    NOTE,
    NewMessage("developer", [{"type": "text", "text": SECRET}], kind=KIND, item=ITEMS[3]),
    NewMessage("assistant", "答え", kind=KIND, item=ITEMS[2]),
]


@pytest.mark.parametrize("item", ITEMS)
def test_items_come_back_as_they_were(face: Face, kit: Any, item: Any) -> None:
    """So do those that JSON must escape. A kind may stand alone."""
    chat = kit.chat("k")
    (written,) = face.settle(chat.append([{"role": "user", "content": "x", "kind": KIND, "item": item}]))
    face.settle(chat.append([{"role": "user", "content": "x", "kind": "only/2"}]))
    first, second = face.settle(chat.messages())
    assert (first, first.kind, first.item) == (written, KIND, item)
    assert (second.kind, second.item) == ("only/2", None)
    assert face.settle(chat.send("y")).message.kind is None
    face.settle(chat.verify())


def test_nothing_foreign_is_sent(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Rule 94: the model gets the projections of users, assistants and tools. Notes and empty messages are left out."""
    chat = kit.chat("k")
    face.settle(chat.append(BATCH))
    reply = face.settle(chat.send("次"))
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["質問", "答え", "次"]
    assert SECRET not in json.dumps(server.requests[-1].body, ensure_ascii=False)
    rules = {part.key: part.rule for part in reply.context.parts if not part.included}
    assert rules == {2: "empty", **dict.fromkeys((3, 4), "a note of another program, which is never sent")}
    face.settle(chat.pin(3))
    face.settle(chat.regenerate())
    assert SECRET not in json.dumps(server.requests[-1].body, ensure_ascii=False)
    assert face.settle(chat.replay(reply)).status == "exact"


def test_a_note_is_not_summarized(face: Face, database: str, server: LoopbackServer) -> None:
    """A summary's transcript has no notes either."""
    budget = Budget(context_tokens=700, reply_tokens=64, step_tokens=100)
    kit = face.kit(database, model="loop-1", base_url=server.url, budget=budget, summary=Summary(max_tokens=60))
    chat = kit.chat("k")
    talk = [{"role": role, "content": "言葉 " * 30} for role in ("user", "assistant") * 8]
    face.settle(chat.append([*talk[:9], NOTE, *talk[9:]]))
    for number in range(3):
        face.settle(chat.send(f"{number}"))
    assert len(server.requests) > 3
    assert SECRET not in json.dumps([each.body for each in server.requests], ensure_ascii=False)


def test_the_window_does_not_read_items(database: str, server: LoopbackServer) -> None:
    """No statement of a turn names the column, on a path of one run and of several."""
    kit = Convokit(database, model="loop-1", base_url=server.url)
    chat = kit.chat("k")
    chat.append([EMPTY, *BATCH] * 20)
    chat.append(BATCH, after=60)
    chat.pin(1)
    statements: list[str] = []
    event.listen(kit._runtime._store.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    chat.send("one")
    chat.context()
    reading = [each for each in statements if "convokit_message" in each and "INSERT" not in each]
    assert len(reading) >= 2
    assert not [each for each in reading if "item" in each]
    kit.close()


@pytest.mark.parametrize(
    "altered",
    ["item = '{}'", "item = NULL", "kind = 'other'", "kind = NULL", "kind = NULL, item = NULL"],
)
def test_the_chain_covers_kind_and_item(face: Face, kit: Any, database: str, altered: str) -> None:
    """Any change is found, on rows that have them and on rows that have none."""
    chat = kit.chat("k")
    face.settle(chat.append([BATCH[0], {"role": "user", "content": "plain"}]))
    face.settle(chat.verify())
    change(database, f"UPDATE convokit_message SET {altered} WHERE seq = 1")
    with pytest.raises(ChainBroken, match="message 1 is not what was written"):
        face.settle(chat.verify())


@pytest.mark.parametrize("altered", ["item = '{}'", "kind = 'other'"])
def test_the_chain_covers_what_is_added(face: Face, kit: Any, database: str, altered: str) -> None:
    """A plain message cannot get a kind or an item later."""
    face.settle(kit.chat("k").append([{"role": "user", "content": "plain"}]))
    change(database, f"UPDATE convokit_message SET {altered} WHERE seq = 1")
    with pytest.raises(ChainBroken, match="message 1 is not what was written"):
        face.settle(kit.chat("k").verify())


def test_redaction_removes_item_and_kind(face: Face, kit: Any, database: str) -> None:
    """No table has the text any more, and the chain stays whole. So it is after an erasure."""
    chat = kit.chat("k")
    face.settle(chat.append(BATCH))
    receipt = face.settle(chat.redact(2))
    assert receipt.complete or database.startswith("postgresql")
    message = face.settle(chat.messages())[1]
    assert (message.status, message.kind, message.item) == ("redacted", None, None)
    face.settle(chat.verify())
    face.settle(chat.erase())
    assert rows(database, "SELECT kind, item FROM convokit_message WHERE kind IS NOT NULL OR item IS NOT NULL") == []
    face.settle(chat.verify())


def test_copies_and_forks_carry_items(face: Face, kit: Any) -> None:
    chat = kit.chat("k")
    face.settle(chat.append(BATCH))
    expected = [(each.kind, each.item) for each in face.settle(chat.messages())]
    for other in (face.settle(chat.copy("copy")), face.settle(chat.fork())):
        assert [(each.kind, each.item) for each in face.settle(other.messages())] == expected
        face.settle(other.verify())


def test_exports_and_imports(face: Face, kit: Any, twin: str) -> None:
    """The lossless export has both, and a trusted import restores them. An untrusted one drops and counts them."""
    chat = kit.chat("k")
    face.settle(chat.append([*BATCH, {"role": "tool", "tool_call_id": "x", "content": "late"}]))
    file = io.StringIO()
    face.settle(kit.export(file))
    restored = face.kit(twin)
    found = face.settle(restored.import_(io.StringIO(file.getvalue()), trusted=True))
    assert found.conversations == 1
    (conversation,) = face.settle(restored.conversations()).items
    again = face.settle(restored.chat(id=conversation.id).messages())
    assert [(each.kind, each.item) for each in again] == [
        (each.kind, each.item) for each in face.settle(chat.messages())
    ]
    face.settle(restored.chat(id=conversation.id).verify())
    found = face.settle(restored.import_(io.StringIO(file.getvalue()), key="stranger"))
    assert {name: found.left_out[name] for name in ("kinds", "items", "instructions")} == {
        "kinds": 5,
        "items": 5,
        "instructions": 2,
    }
    imported = face.settle(restored.chat("stranger").messages())
    assert [(each.role, each.text, each.kind, each.item) for each in imported] == [
        ("user", "質問", None, None),
        ("assistant", "答え", None, None),
        ("tool", "late", None, None),
    ]


@pytest.mark.once
def test_training_data_has_no_notes(face: Face, kit: Any) -> None:
    """An export for fine-tuning has the projections only."""
    face.settle(kit.chat("k").append(BATCH))
    file = io.StringIO()
    face.settle(kit.export(file, format="openai"))
    (line,) = file.getvalue().splitlines()
    assert json.loads(line)["messages"] == [
        {"role": "user", "content": "質問"},
        {"role": "assistant", "content": "答え"},
    ]


def test_binaries_of_parts_are_stored(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Pictures of users and of tool results are stored once, proven, and sent."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    call = {"id": "c", "type": "function", "function": {"name": "draw", "arguments": "{}"}}
    chat = kit.chat("k")
    written = face.settle(
        chat.append(
            [
                NewMessage("user", ["見て", part]),
                {"role": "assistant", "tool_calls": [call]},
                NewMessage("tool", [part], tool_call_id="c"),
            ]
        )
    )
    assert face.settle(chat.verify()).blobs == 1
    assert seqs(written) == [1, 2, 3]
    face.settle(chat.send("次"))
    assert json.dumps(server.requests[-1].body).count("iVBORw0KGgo=") == 2
