# Generated from async_methods.py by scripts/unasync.py. Change that file, then run the script.
"""Call every public method of the synchronous classes. mypy and pyright (strict) read this file; nothing runs it."""

# pyright: strict

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, assert_type
from uuid import UUID

from pydantic import BaseModel, TypeAdapter

from convokit import (
    Branch,
    Budget,
    ChainEntry,
    Chat,
    Checkpoint,
    Context,
    Conversation,
    Convokit,
    Diff,
    Exported,
    History,
    Hit,
    Imported,
    Message,
    MessagePreview,
    NewMessage,
    Page,
    PastWindow,
    Price,
    Receipt,
    Recovered,
    Replay,
    Reply,
    Report,
    Run,
    SearchPage,
    Stream,
    SummaryRecord,
    Turn,
    TurnRecord,
    Usage,
    UsageReport,
    Verified,
    VerifiedAll,
)


class City(BaseModel):
    """A pydantic model as the type of a reply."""

    name: str


@dataclass
class Country:
    """A dataclass as the type of a reply."""

    name: str


class River(TypedDict):
    """A TypedDict as the type of a reply."""

    name: str


def print_progress(count: int, total: int | None) -> None:
    """Receive the progress of an export."""
    print(count, total)


def open_kits(database: Path) -> None:
    """Open a kit, its tenants and its chats."""
    with Convokit(database, model="m", budget=Budget(context_tokens=8192), temperature=0.5) as kit:
        assert_type(kit, Convokit)
        kit.migrate()
        assert_type(kit.tenant("other"), Convokit)
        assert_type(kit.read_only, bool)
        chat = kit.chat("key", subject="s", title="題", metadata={"plan": "pro"}, seed=3)
        assert_type(chat, Chat)
        assert_type(chat.id, UUID | None)
        assert_type(chat.key, str | None)
        assert_type(chat.branch, int | str)
    kit.close()


def manage(kit: Convokit) -> None:
    """Call the methods of a kit."""
    page = kit.conversations(subject="s", prefix="k", archived=False, open=True, limit=5)
    assert_type(page, Page[Conversation])
    for conversation in page:
        assert_type(conversation, Conversation)
    assert_type(page[0], Conversation)
    assert_type(page[:2], list[Conversation])
    assert_type(kit.conversation("key"), Conversation | None)
    assert_type(kit.turn("01890a5d-ac96-774b-bcce-b302099a8057"), TurnRecord)
    assert_type(page[0].preview, MessagePreview | None)
    hits = kit.search("京都", role="user", since=datetime.now(UTC), limit=5)
    assert_type(hits, SearchPage)
    assert_type(hits.conversations, list[Conversation])
    for hit in hits:
        assert_type(hit, Hit)
        assert_type(hit.message, Message)
    assert_type(kit.reindex(progress=print), int)
    report = kit.usage(by="model", since=date(2026, 11, 1), prices={"m": Price(prompt="0.20", completion=2)})
    assert_type(report, UsageReport)
    assert_type(kit.export("all.jsonl", progress=print_progress), Exported)
    assert_type(kit.import_("all.jsonl", dry_run=True), Imported)
    checked = kit.verify(progress=print_progress)
    assert_type(checked, VerifiedAll)
    assert_type(kit.checkpoint(key="secret", to="checkpoint.json"), Checkpoint)
    assert_type(kit.recover(), list[Recovered])
    assert_type(kit.erase(subject="s", dry_run=True), Receipt)
    assert_type(kit.purge(older_than=timedelta(days=30), dry_run=True), Receipt)


def ask(chat: Chat) -> None:
    """Call the methods that bring a reply."""
    reply = chat.send("hello", max_output_tokens=5, idempotency_key="x", turn_metadata={"page": 3})
    assert_type(reply, Reply[Any])
    assert_type(reply.text, str)
    assert_type(reply.message, Message)
    assert_type(reply.usage, Usage)
    assert_type(reply.turn_id, UUID)
    assert_type(reply.context, Report | None)
    if reply.context is not None:
        assert_type(reply.context.tokens, int)
    for call in reply.open_calls:
        chat.send(tool_results={call["id"]: {"temperature": 20}})
    assert_type(chat.open_calls(), list[dict[str, Any]])
    assert_type(chat.resume(), Reply[Any])
    assert_type(chat.regenerate(), Reply[Any])
    assert_type(chat.edit(1, "hello?"), Reply[Any])
    assert_type(chat.cancel(), bool)
    chat.send("hello", temprature=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def ask_for_types(chat: Chat) -> None:
    """Pass each kind of type as `response_format`."""
    reply = chat.send("Where?", response_format=City)
    assert_type(reply, Reply[City])
    assert_type(reply.parsed, City | None)
    assert_type((chat.send("Where?", response_format=Country)).parsed, Country | None)
    assert_type((chat.send("Where?", response_format=River)).parsed, River | None)
    assert_type((chat.send("Where?", response_format=TypeAdapter(list[City]))).parsed, list[City] | None)
    assert_type(chat.send("Where?", response_format={"type": "json_object"}), Reply[Any])
    assert_type(chat.send("Where?", response_format=None), Reply[Any])
    assert_type(chat.resume(response_format=City), Reply[City])
    assert_type(chat.regenerate(response_format=City), Reply[City])
    assert_type(chat.edit(1, "Where?", response_format=City), Reply[City])
    assert_type(chat.stream("Where?", response_format=City), Stream[Reply[City]])
    assert_type(chat.stream_regenerate(response_format=City).reply.parsed, City | None)
    assert_type(chat.stream_edit(1, "Where?", response_format=City).reply.parsed, City | None)


def stream(chat: Chat) -> None:
    """Read streams."""
    with chat.stream([{"type": "text", "text": "hello"}], on_disconnect="finish") as events:
        assert_type(events, Stream[Reply[Any]])
        for event in events:
            assert_type(event.text, str)
            if event.type == "tool_call":
                assert_type(event.arguments, str)
        assert_type(events.turn_id, UUID | None)
        assert_type(events.reply, Reply[Any])
    assert_type(chat.follow(after=10), Stream[Reply[Any]])
    assert_type(chat.stream_regenerate(), Stream[Reply[Any]])
    assert_type(chat.stream_edit(1, "hello?"), Stream[Reply[Any]])
    events.close()


def read(chat: Chat) -> None:
    """Call the methods that read."""
    messages = chat.messages(limit=5, passages=True)
    assert_type(messages, list[Message])
    assert_type(messages[0].content, str | list[dict[str, Any]] | None)
    assert_type(chat.messages(limit=None, after=0), list[Message])
    assert_type(messages[0].parts_at, int | None)
    record = chat.turn((chat.turns())[0].id)
    assert_type(record, TurnRecord)
    assert_type(record.calls[0].usage, Usage)
    assert_type(chat.entries(), list[ChainEntry])
    assert_type(chat.removals(limit=5), list[ChainEntry])
    assert_type(chat.turn_records([record.id]), list[TurnRecord])
    page = chat.history(limit=5, around=messages[0])
    assert_type(page, History)
    assert_type(page.turns, list[TurnRecord])
    assert_type(chat.runs(before=messages[0]), list[Run])
    assert_type((chat.blob("00")).data, bytes)
    assert_type(chat.summaries(), list[SummaryRecord])
    assert_type(chat.prompt("00"), str)
    assert_type(chat.log(), list[Message])
    assert_type(chat.leaves(), list[Message])
    assert_type(chat.siblings(messages[0]), list[Message])
    assert_type(chat.children(0), list[Message])
    assert_type(chat.branches(), list[Branch])
    turns = chat.turns(question=1)
    assert_type(turns, list[Turn])
    assert_type(chat.context("hello", response_format=City), Context)
    replay = chat.replay(turns[0], call=1)
    assert_type(replay, Replay)
    assert_type(chat.diff(turns[0], replay), Diff)
    window = chat.window(turns[0], call=1)
    assert_type(window, PastWindow)
    assert_type(window.factor, float | None)
    assert_type(chat.verify(progress=print_progress), Verified)


def write(chat: Chat) -> None:
    """Call the methods that write without a model."""
    written = chat.append([NewMessage("assistant", "Hello."), {"role": "user", "content": "Hi."}], expect=0)
    assert_type(written, list[Message])
    assert_type(chat.fork(written[0], name="other"), Chat)
    assert_type(chat.copy("copy"), Chat)
    assert_type(chat.update(title="題", metadata={"a": None}, archived=True), Conversation)
    assert_type(chat.update_turn("id", metadata={"a": [1]}), None)
    chat.checkout(written[0])
    chat.pin(written[0])
    chat.unpin(1)
    assert_type(chat.redact("id:1", reason="asked for", dry_run=True), Receipt)
    assert_type(chat.erase(dry_run=True), Receipt)
