"""Lossless exports and their imports: ids, hashes, chains, damaged and forged files."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from sqlalchemy import Engine, update

from convokit.errors import (
    BadRecord,
    ConversationExists,
    Interrupted,
    InvalidInput,
    NotFound,
    Rejected,
    SettingsError,
    TransferFailed,
)
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import turn
from convokit.transfer.formats import EXPORT_FORMATS, IMPORT_FORMATS
from convokit.transfer.models import ExportFormat, ImportFormat
from tests.faults.shared_kit import dump
from tests.support.databases import Files
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, calls, failure, stream
from tests.support.server import completion as answered

pytestmark = pytest.mark.once

IMAGE = "data:image/png;base64,iVBORw0KGgo="


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: the city
    """
    return f"sunny in {city}"


@pytest.fixture
def other(face: Face, files: Files, server: LoopbackServer) -> Any:
    """A kit on a database of another id."""
    kit = face.kit(files.empty(), model="loop-1", base_url=server.url)
    face.settle(kit.migrate())
    return kit


def fill(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Write conversations with all that rows may hold: parts, tools, failures, passages, pins, settings, Japanese."""
    chat = kit.chat("k", subject="人", title="題", metadata={"a": 1}, developer_prompt="日本語で。", temperature=0.5)
    face.settle(chat.send("こんにちは", passages=["retrieved"], idempotency_key="once"))
    face.settle(chat.edit(2, "今日は"))
    face.settle(chat.regenerate())
    face.settle(face.settle(chat.fork(2, name="beside")).send("on a branch"))
    face.settle(chat.send(["look", {"type": "image_url", "image_url": {"url": IMAGE}}]))
    face.settle(chat.pin(2))
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "東京"}'}}
    server.script(answered(None, tool_calls=[call]))
    face.settle(chat.send("and the weather?", tools=[weather]))
    server.script(failure(400, "no"))
    with pytest.raises(Rejected):
        face.settle(chat.send("this fails"))
    unkeyed = kit.chat()
    server.script(stream(["cut ", "off"], finish=None, done=False))
    with pytest.raises(Interrupted):
        face.collect(unkeyed.stream("broken"))
    face.settle(unkeyed.send("whole"))


def out(face: Face, kit: Any, **options: Any) -> list[str]:
    """Return the lines of an export."""
    file = io.StringIO()
    face.settle(kit.export(file, **options))
    return file.getvalue().splitlines(keepends=True)


def into(face: Face, kit: Any, lines: list[str], **options: Any) -> Any:
    """Import lines, as a backup of one's own."""
    return face.settle(kit.import_(io.StringIO("".join(lines)), **{"trusted": True, **options}))


def opened(database: str) -> Engine:
    """Return an engine on a test's database."""
    return open_engine(parse_database_url(database))


def test_type_checkers_know_every_format() -> None:
    assert get_args(ExportFormat) == tuple(EXPORT_FORMATS)
    assert get_args(ImportFormat) == tuple(IMPORT_FORMATS)


def test_a_restore_is_byte_identical(
    face: Face, kit: Any, database: str, twin: str, server: LoopbackServer, tmp_path: Path
) -> None:
    """A database with the same id gets the same ids, rows, chain and head. A second export has the same lines."""
    fill(face, kit, server)
    written = face.settle(kit.export(tmp_path / "all.jsonl"))
    restored = face.kit(twin, model="loop-1", base_url=server.url)
    found = face.settle(restored.import_(tmp_path / "all.jsonl", trusted=True))
    assert (found.conversations, found.messages, found.rechained) == (2, written.messages, 0)
    assert face.settle(restored.chat("k").verify()) == face.settle(kit.chat("k").verify())
    again = out(face, restored)
    assert again[1:-1] == (tmp_path / "all.jsonl").read_text("utf-8").splitlines(keepends=True)[1:-1]
    engine = opened(database)
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(update(turn).values(owner=None))  # the name of a process, which stays where that is
    there = opened(twin)
    assert dump(engine) == dump(there)
    engine.dispose()
    there.dispose()


def test_a_restored_conversation_continues(
    face: Face, kit: Any, twin: str, server: LoopbackServer, tmp_path: Path
) -> None:
    """The next request contains the history, an idempotency key finds its turn, and the chain stays whole."""
    fill(face, kit, server)
    restored = face.kit(twin, model="loop-1", base_url=server.url)
    into(face, restored, out(face, kit))
    chat = restored.chat("k")
    sent = len(server.requests)
    first = face.settle(chat.send("こんにちは", passages=["retrieved"], idempotency_key="once"))
    assert (first.text, len(server.requests)) == ("echo: こんにちは", sent)
    face.settle(chat.send("go on"))
    body = server.requests[-1].body
    assert body["messages"][0]["content"] == "日本語で。"
    assert body["messages"][3]["content"][1]["image_url"]["url"] == IMAGE
    assert body["temperature"] == 0.5
    face.settle(chat.verify())


def test_an_import_into_another_database_gets_a_new_chain(
    face: Face, kit: Any, other: Any, server: LoopbackServer
) -> None:
    """The conversation has a new id, the same messages, and a chain whose first entry names the old one."""
    fill(face, kit, server)
    lines = out(face, kit)
    found = into(face, other, lines)
    assert (found.conversations, found.rechained) == (2, 2)
    before, after = face.settle(kit.chat("k").verify()), face.settle(other.chat("k").verify())
    assert after.entries == before.entries + 1
    assert after.conversation_id != before.conversation_id
    texts = [[each.text for each in face.settle(each.chat("k").messages(passages=True))] for each in (kit, other)]
    assert texts[0] == texts[1]
    (first, *_) = [json.loads(line)["entry"] for line in out(face, other, key="k") if '"entry"' in line]
    assert (first["number"], first["kind"]) == (1, "import")
    assert first["ref"] == f"{before.conversation_id}:{before.entries}:{before.head}"
    face.settle(other.chat("k").send("go on"))
    face.settle(other.chat("k").verify())
    assert into(face, other, lines).unchanged == 2


def test_turns_with_tool_results_are_restored(
    face: Face, kit: Any, twin: str, other: Any, server: LoopbackServer
) -> None:
    """With the same chain or a new one: turns are listed, calls stay open, a failed turn is resumed, a key finds its turn."""
    schema = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
    image = [{"type": "image_url", "image_url": {"url": IMAGE}}]
    chat = kit.chat("k", tools=[schema])
    server.script(calls(("c1", "pay", "{}")))
    face.settle(chat.send("pay"))
    kept = face.settle(chat.send(tool_results={"c1": image}, idempotency_key="once"))
    server.script(calls(("c2", "pay", "{}")), failure(400, "no"))
    face.settle(chat.send("pay again"))
    with pytest.raises(Rejected):
        face.settle(chat.send(tool_results={"c2": "払いました"}))
    server.script(calls(("c3", "pay", "{}")))
    face.settle(kit.chat("waiting").send("pay", tools=[schema]))
    for restored in (face.kit(twin, model="loop-1", base_url=server.url), other):
        assert into(face, restored, out(face, kit)).conversations == 2
        there = restored.chat("k")
        assert [(each.id, each.state) for each in face.settle(there.turns())] == [
            (each.id, each.state) for each in face.settle(chat.turns())
        ]
        sent = len(server.requests)
        again = face.settle(there.send(tool_results={"c1": image}, idempotency_key="once"))
        assert (again.turn_id, len(server.requests)) == (kept.turn_id, sent)
        assert face.settle(there.replay(kept.turn_id)).status == "exact"
        assert face.settle(there.resume()).text == "echo: 払いました"
        assert face.settle(there.messages())[-1].parent_seq == face.settle(there.messages())[-2].seq
        face.settle(there.verify())
        waiting = restored.chat("waiting")
        assert [each["id"] for each in face.settle(waiting.open_calls())] == ["c3"]
        assert face.settle(waiting.send(tool_results={"c3": "paid"})).text == "echo: paid"
        face.settle(waiting.verify())


def test_an_import_into_another_tenant_gets_a_new_chain(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The import is a new conversation. The one of the first tenant does not change."""
    fill(face, kit, server)
    rival = kit.tenant("rival")
    assert into(face, rival, out(face, kit)).rechained == 2
    assert face.settle(rival.chat("k").verify()).conversation_id != face.settle(kit.chat("k").verify()).conversation_id
    assert len(face.settle(rival.conversations())) == len(face.settle(kit.conversations())) == 2


def test_a_repeated_import_writes_only_what_is_missing(face: Face, kit: Any, twin: str, server: LoopbackServer) -> None:
    """An interrupted import is completed. A conversation that has new turns since is left alone."""
    fill(face, kit, server)
    lines = out(face, kit)
    restored = face.kit(twin, model="loop-1", base_url=server.url)
    cut = next(number for number, line in enumerate(lines) if '{"end"' in line) + 1
    assert into(face, restored, lines[:cut], on_error="skip").conversations == 1
    found = into(face, restored, lines)
    assert (found.conversations, found.unchanged) == (1, 1)
    face.settle(restored.chat("k").send("gone on"))
    found = into(face, restored, lines)
    assert (found.conversations, found.unchanged, found.messages) == (0, 2, 0)
    assert face.settle(restored.chat("k").messages(limit=1))[0].text == "echo: gone on"


def test_an_import_never_overwrites_another_conversation(
    face: Face, kit: Any, other: Any, server: LoopbackServer
) -> None:
    """If the key belongs to another conversation, the record raises or is skipped."""
    face.settle(kit.chat("k").send("one"))
    face.settle(other.chat("k").send("another"))
    lines = out(face, kit)
    with pytest.raises(ConversationExists, match="line 2: conversation k already exists with other content"):
        into(face, other, lines)
    found = into(face, other, lines, on_error="skip")
    assert (found.conversations, found.skipped, found.problems[0].line) == (0, 1, 2)
    assert [each.text for each in face.settle(other.chat("k").messages())] == ["another", "echo: another"]


def test_an_import_cannot_take_over_another_tenants_conversation(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A file that names another tenant's conversation raises, and changes nothing."""
    chat = kit.chat()
    face.settle(chat.send("of A"))
    lines = out(face, kit)
    claimed = resealed([lines[0].replace('"tenant":"default"', '"tenant":"rival"'), *lines[1:]])
    rival = kit.tenant("rival")
    with pytest.raises(ConversationExists):
        into(face, rival, claimed)
    assert len(face.settle(rival.conversations())) == 0
    assert out(face, kit)[1:-1] == lines[1:-1]


def test_an_interrupted_export_leaves_no_file(face: Face, kit: Any, tmp_path: Path) -> None:
    """An earlier file of that name stays as it was."""
    face.settle(kit.chat("k").send("x"))
    (tmp_path / "a.jsonl").write_text("the last one")

    def stop(done: int, whole: int | None) -> None:
        raise KeyError("left")

    with pytest.raises(KeyError):
        face.settle(kit.export(tmp_path / "a.jsonl", progress=stop))
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]
    assert (tmp_path / "a.jsonl").read_text() == "the last one"
    face.settle(kit.export(tmp_path / "a.jsonl"))
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_open_turn_is_imported_as_abandoned(face: Face, kit: Any, twin: str, server: LoopbackServer) -> None:
    """A running turn is exported as a takeover would leave it, so the imported branch accepts the next send."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    server.script(stream(["two"] * 9))
    events = chat.stream("running")
    steps = iter(events) if face.name == "sync" else events.__aiter__()
    for _ in range(2):
        next(steps) if face.name == "sync" else face.settle(steps.__anext__())
    lines = out(face, kit)
    assert [each.state for each in face.settle(chat.turns())] == ["completed", "open"]
    restored = face.kit(twin, model="loop-1", base_url=server.url)
    into(face, restored, lines)
    copy = restored.chat("k")
    assert [each.state for each in face.settle(copy.turns())] == ["completed", "abandoned"]
    assert all(each.ended_at >= (each.first_token_at or each.started_at) for each in face.settle(copy.turns()))
    assert out(face, restored)[1:-1] == lines[1:-1]
    assert face.settle(copy.send("go on")).text == "echo: go on"
    face.settle(copy.verify())
    face.settle(events.close())


DAMAGES: dict[str, tuple[Any, str]] = {
    "cut off": (lambda lines: lines[:-3], "the file is truncated: its last line is not a footer"),
    "cut in a line": (lambda lines: [*lines[:-1], lines[-1][:-20]], "the file is truncated"),
    "empty": (lambda lines: [], "line 0: is not an export of convokit|line 1: is not an export of convokit"),
    "another kind": (lambda lines: ['[{"role": "user"}]\n'], "line 1: is not an export of convokit"),
    "no text": (lambda lines: ["\x00\x01"], "line 1: is not an export of convokit"),
    "a later version": (
        lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]],
        "line 1: has version 2 of the format, this convokit reads 1; update convokit-sql",
    ),
    "a word changed": (
        lambda lines: [line.replace("echo: one", "echo: eno") for line in lines],
        "the file was changed after its export",
    ),
    "a line missing": (lambda lines: [*lines[:3], *lines[4:]], "the file was changed after its export"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_imports_nothing(face: Face, kit: Any, twin: str, server: LoopbackServer, name: str) -> None:
    """A file that is truncated, changed or of another format raises, and nothing is written."""
    face.settle(kit.chat("k").send("one"))
    spoil, match = DAMAGES[name]
    restored = face.kit(twin, model="loop-1", base_url=server.url)
    with pytest.raises(BadRecord, match=match):
        into(face, restored, spoil(out(face, kit)))
    assert len(face.settle(restored.conversations())) == 0


def test_skip_imports_the_whole_conversations_of_a_damaged_file(
    face: Face, kit: Any, twin: str, server: LoopbackServer
) -> None:
    """`on_error="skip"` reports the damage of the file and the line of each damaged conversation."""
    for key in ("a", "b", "c"):
        face.settle(kit.chat(key).send(f"question of {key}"))
    lines = out(face, kit)
    second = [number for number, line in enumerate(lines) if '{"conversation"' in line][1]
    bad = [*lines[: second + 1], lines[second + 1].replace("question", "answer"), *lines[second + 2 :]]
    restored = face.kit(twin, model="loop-1", base_url=server.url)
    found = into(face, restored, bad, on_error="skip")
    assert (found.conversations, found.skipped) == (2, 2)
    assert "the file was changed" in found.problems[0].problem
    assert second < found.problems[1].line <= second + 9
    assert into(face, restored, lines).conversations == 1


def resealed(lines: list[str]) -> list[str]:
    """Return changed lines with digests that fit again: what somebody does who knows the form."""
    made: list[str] = [lines[0]]
    own: list[str] = []
    for each in lines[1:]:
        line, kind = each, next(iter(json.loads(each)))
        if kind == "end":
            line = json.dumps({"end": {"lines": len(own), "sha256": _sha(own)}}) + "\n"
        elif kind == "footer":
            line = json.dumps({"footer": {**json.loads(each)["footer"], "sha256": _sha(made)}}) + "\n"
        own = [line] if kind == "conversation" else [*own, line]
        made.append(line)
    return made


def _sha(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


FORGERIES: dict[str, tuple[str, str, str]] = {
    "a word": ('"content":"one"', '"content":"two"', "message 1 is not what was written"),
    "a NUL": ('"content":"one"', '"content":"a\\u0000b"', "message.content: contains NUL"),
    "a surrogate": ('"content":"one"', '"content":"\\ud800"', "message.content: contains a lone surrogate"),
    "a role": ('"role":"user"', '"role":"root"', "message.role: must be one of .*, not 'root'"),
    "a circle": (
        '"seq":2,"parent_seq":1',
        '"seq":2,"parent_seq":2',
        "message.parent_seq: 2 is not the seq of a message before 2",
    ),
    "a run": (
        '"seq":2,"parent_seq":1,"run_start_seq":1',
        '"seq":2,"parent_seq":1,"run_start_seq":2',
        "must be 1, not 2",
    ),
    "a head": ('"head_seq":2', '"head_seq":9', "9 is not a message of the conversation, which has 2"),
    "a number": (
        '"tokens":',
        '"tokens":99999999999,"x":',
        "message.tokens: Input should be less than 2147483648, not 99999999999",
    ),
    "tokens": ('"tokens":', '"tokens":1000,"path_tokens":', "message.tokens: 1,000 are more than the"),
    "tokens below 0": ('"tokens":', '"tokens":-', "message.tokens: must be from 0 to 1,000,000,000, not -[0-9]+"),
    "tokens of the path": (
        '"path_tokens":',
        '"path_tokens":922337203685477580',
        "message.path_tokens: must be [0-9]+, not 922337203685477580[0-9]+",
    ),
    "an epoch": ('"epoch":', '"epoch":200000000', "turn.epoch: must be from 0 to 1,000,000,000, not 200000000[0-9]"),
    "a call's number": ('"number":1,', '"number":2147483647,', "number: must be from 0 to 1,000,000,000"),
    "a call's tokens": ('"prompt_tokens":', '"prompt_tokens":-', "completion.prompt_tokens: must be from 0"),
    "a cost": (
        '"requested_model":',
        '"cost_nanousd":9223372036854775807,"requested_model":',
        "completion.cost_nanousd: must be from 0 to 1,000,000,000,000,000",
    ),
    "a part's type": (
        '"content":"one"',
        '"parts":"[{\\"type\\":[\\"text\\"]}]"',
        r"message.parts\[0\]: is not a content part",
    ),
    "a part's url": (
        '"content":"one"',
        '"parts":"[{\\"type\\":\\"image_url\\",\\"image_url\\":{\\"url\\":7}}]"',
        r"message.parts\[0\].image_url.url: must be text",
    ),
    "a binary's digest": (
        '"content":"one"',
        '"parts":"[{\\"type\\":\\"image_url\\",\\"image_url\\":{\\"url\\":\\"blob:x\\"}}]"',
        r"message.parts\[0\].image_url.url: must be text, or blob: and 64",
    ),
    "spoken audio": (
        '"content":"one"',
        '"content":"one","extra":"{\\"keys\\":{\\"audio\\":\\"blob:\\"}}"',
        "message.extra: must contain an object",
    ),
    "a surrogate in JSON": (
        '"content":"one"',
        '"parts":"[{\\"type\\":\\"text\\",\\"text\\":\\"\\\\ud800\\"}]"',
        "message.parts: contains a lone surrogate",
    ),
    "a column": ('"status":"complete"', '"status":"complete","mood":"good"', "message.mood: is an unknown column"),
    "a kind": ('{"turn":', '{"secret":', "secret: is an unknown kind of line"),
    "a state": ('"state":"completed"', '"state":"open"', "turn.state: must be one of .*, not 'open'"),
    "parts": ('"content":"one"', '"parts":"[{}]"', r"message.parts\[0\]: is not a content part"),
    "calls": ('"content":"echo: one"', '"tool_calls":"[{}]"', "message.tool_calls: each call needs an id"),
    "a manifest": ('"manifest":"', '"manifest":"x', "completion.manifest: is not a JSON object"),
    "a prompt's name": ('"manifest":"{', '"manifest":"{\\"prompt\\":7,', "completion.manifest: cannot be read"),
    "a time": ('"created_at":1', '"created_at":991', "is not a time"),
    "settings": ('"last_seq":2', '"settings":"{\\"params\\":{\\"temperature\\":99}}","last_seq":2', "temperature"),
    "an id": ('"conversation":{"id":"', '"conversation":{"id":"x', "conversation.id: Input should be a valid UUID"),
    "a ref": ('"kind":"completion","ref":"', '"kind":"completion","ref":"x', "is not the ref of a completion"),
    "another chain": ('"kind":"message"', '"kind":"import"', "(the|this) entry .*was altered"),
}


@pytest.mark.once
@pytest.mark.parametrize("elsewhere", keep([False, True], False, sample=True))
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_row_is_rejected(
    face: Face, kit: Any, twin: str, other: Any, server: LoopbackServer, name: str, *, elsewhere: bool
) -> None:
    """A row that the library would not write raises although all digests match, and nothing is written."""
    face.settle(kit.chat("k").send("one"))
    before, after, match = FORGERIES[name]
    lines = out(face, kit)
    forged = resealed([line if '"convokit"' in line else line.replace(before, after, 1) for line in lines])
    assert forged != lines
    to = other if elsewhere else face.kit(twin, model="loop-1", base_url=server.url)
    with pytest.raises(BadRecord, match=match):
        into(face, to, forged)
    assert len(face.settle(to.conversations())) == 0
    assert into(face, to, forged, on_error="skip").conversations == 0
    assert into(face, to, lines).conversations == 1


def test_no_restored_message_is_newer_than_its_conversation(face: Face, kit: Any, twin: str, other: Any) -> None:
    """A search by time relies on this, and a clock that was set back may have written something else."""
    face.settle(kit.chat("k").send("one"))
    lines = out(face, kit)
    at = next(number for number, line in enumerate(lines) if '{"conversation"' in line)
    row = json.loads(lines[at])["conversation"]
    old = resealed([*lines[:at], json.dumps({"conversation": {**row, "updated_at": 1}}) + "\n", *lines[at + 1 :]])
    for to in (face.kit(twin, model="loop-1"), other):
        into(face, to, old)
        newest = max(each.created_at for each in face.settle(to.chat("k").messages()))
        assert face.settle(to.conversations()).items[0].updated_at == newest
        assert len(face.settle(to.search("one", since=newest - timedelta(seconds=1)))) > 0
        face.settle(to.chat("k").verify())


def test_a_restored_message_may_have_many_tokens_for_its_parts(face: Face, kit: Any, twin: str) -> None:
    """100,000 for each part; a count of one more is refused."""
    face.settle(kit.chat("k").send(["look", {"type": "image_url", "image_url": {"url": IMAGE}}]))
    lines = out(face, kit)
    at = next(number for number, line in enumerate(lines) if '"image_url' in line)
    row = json.loads(lines[at])["message"]
    forged = json.dumps({"message": {**row, "tokens": 201_000, "path_tokens": 201_000}}) + "\n"
    with pytest.raises(BadRecord, match=r"message\.tokens: 201,000 are more than the 200,"):
        into(face, face.kit(twin, model="loop-1"), resealed([*lines[:at], forged, *lines[at + 1 :]]))
    forged = json.dumps({"message": {**row, "tokens": 200_000, "path_tokens": 200_000}}) + "\n"
    with pytest.raises(BadRecord, match=r"message.path_tokens|message 1 is not what was written"):
        into(face, face.kit(twin, model="loop-1"), resealed([*lines[:at], forged, *lines[at + 1 :]]))


def test_an_export_selects_conversations(face: Face, kit: Any, server: LoopbackServer) -> None:
    """By key, by ids, by subject, or all. The progress callback gets the messages done and their total."""
    for key, subject in (("a", "p"), ("b", "p"), ("c", "q")):
        face.settle(kit.chat(key, subject=subject).send("x"))
    ids = [each.id for each in face.settle(kit.conversations())]
    seen: list[tuple[int, int | None]] = []

    def count(**options: Any) -> int:
        return int(face.settle(kit.export(io.StringIO(), **options)).conversations)

    assert [count(), count(key="a"), count(conversations=ids[:2]), count(subject="p"), count(subject="no")] == [
        3,
        1,
        2,
        2,
        0,
    ]
    assert count(progress=lambda done, whole: seen.append((done, whole))) == 3
    assert seen == [(2, 6), (4, 6), (6, 6)]
    with pytest.raises(NotFound):
        count(key="nobody")
    with pytest.raises(NotFound):
        count(conversations=["00000000-0000-8000-8000-000000000000"])
    with pytest.raises(InvalidInput, match="pass only one of key, conversations and subject"):
        count(key="a", subject="p")
    with pytest.raises(SettingsError, match="format: must be one of jsonl, openai, markdown"):
        count(format="csv")


@pytest.mark.once
def test_errors_name_files_that_cannot_be_opened(face: Face, kit: Any, tmp_path: Path) -> None:
    """No partial file is left."""
    face.settle(kit.chat("k").send("x"))
    with pytest.raises(TransferFailed, match=r"nowhere/a.jsonl: cannot be written \(No such file"):
        face.settle(kit.export(tmp_path / "nowhere" / "a.jsonl"))
    with pytest.raises(TransferFailed, match="cannot be written"):
        face.settle(kit.export(tmp_path))
    with pytest.raises(TransferFailed, match="open it in text mode"):
        face.settle(kit.export(io.BytesIO()))
    with pytest.raises(SettingsError, match="to: must be a path or a text file, not int"):
        face.settle(kit.export(7))
    with pytest.raises(TransferFailed, match=r"a.jsonl: cannot be read \(No such file"):
        face.settle(kit.import_(tmp_path / "a.jsonl"))
    with pytest.raises(TransferFailed, match="cannot be read"):
        face.settle(kit.import_(tmp_path))
    with pytest.raises(NotFound):
        face.settle(kit.export(tmp_path / "b.jsonl", key="nobody"))
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_can_be_imported(face: Face, kit: Any, other: Any) -> None:
    """A source that cannot seek is read once, and checked as a whole before anything is written."""
    face.settle(kit.chat("k").send("x"))

    class Pipe(io.StringIO):
        def seekable(self) -> bool:
            return False

    assert face.settle(other.import_(Pipe("".join(out(face, kit))), trusted=True)).conversations == 1
    with pytest.raises(BadRecord, match="truncated"):
        face.settle(other.import_(Pipe("".join(out(face, kit)[:-1])), trusted=True))
