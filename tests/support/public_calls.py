"""Call every public method of a kit and of a chat, on a history with branches, an image and an open turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from inspect import isawaitable
from pathlib import Path
from typing import Any
from uuid import UUID

from convokit import NewMessage
from tests.completion.summaries import BUDGET, SUMMARY
from tests.support.abandoned_turns import leave
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls, stream

WORDS = [f"word{number} " for number in range(20)]
KEY = b"0123456789abcdef"
Method = Callable[[Any, Path], Any]

KIT_READS: Mapping[str, Method] = {
    "conversations": lambda kit, folder: kit.conversations(subject="anna"),
    "conversation": lambda kit, folder: kit.conversation("a"),
    "turn": lambda kit, folder: kit.turn((folder / "turn").read_text("utf-8")),
    "search": lambda kit, folder: kit.search("hello"),
    "usage": lambda kit, folder: kit.usage(by="conversation"),
    "export": lambda kit, folder: kit.export(folder / "again.jsonl"),
    "verify": lambda kit, folder: kit.verify(against=folder / "checkpoint", key=KEY),
    "checkpoint": lambda kit, folder: kit.checkpoint(key=KEY, to=folder / "again.checkpoint"),
}
CHAT_READS: Mapping[str, Method] = {
    "open_calls": lambda chat, folder: chat.open_calls(),
    "branches": lambda chat, folder: chat.branches(),
    "leaves": lambda chat, folder: chat.leaves(),
    "siblings": lambda chat, folder: chat.siblings(2),
    "children": lambda chat, folder: chat.children(2),
    "turns": lambda chat, folder: chat.turns(),
    "messages": lambda chat, folder: chat.messages(),
    "history": lambda chat, folder: chat.history(),
    "runs": lambda chat, folder: chat.runs(),
    "log": lambda chat, folder: chat.log(),
    "turn": lambda chat, folder: chat.turn(chat.first),
    "turn_records": lambda chat, folder: chat.turn_records([chat.first, chat.second]),
    "removals": lambda chat, folder: chat.removals(),
    "entries": lambda chat, folder: chat.entries(),
    "blob": lambda chat, folder: chat.blob(chat.digest),
    "summaries": lambda chat, folder: chat.summaries(),
    "prompt": lambda chat, folder: chat.prompt(chat.prompt_digest),
    "context": lambda chat, folder: chat.context("and now?"),
    "replay": lambda chat, folder: chat.replay(),
    "window": lambda chat, folder: chat.window(),
    "verify": lambda chat, folder: chat.verify(),
    "follow": lambda chat, folder: chat.follow(),
    "diff": lambda chat, folder: chat.diff(chat.first, chat.second),
}
"""Every method that reads. `diff` is called with the ids of two turns."""
KIT_WRITES: Mapping[str, Method] = {
    "migrate": lambda kit, folder: kit.migrate(),
    "reindex": lambda kit, folder: kit.reindex(),
    "import_": lambda kit, folder: kit.import_(folder / "export.jsonl"),
    "recover": lambda kit, folder: kit.recover(),
    "erase": lambda kit, folder: kit.erase(subject="anna"),
    "purge": lambda kit, folder: kit.purge(),
}
CHAT_WRITES: Mapping[str, Method] = {
    "send": lambda chat, folder: chat.send("hello"),
    "stream": lambda chat, folder: chat.stream("hello"),
    "resume": lambda chat, folder: chat.resume(),
    "regenerate": lambda chat, folder: chat.regenerate(),
    "edit": lambda chat, folder: chat.edit(1, "hello"),
    "stream_regenerate": lambda chat, folder: chat.stream_regenerate(),
    "stream_edit": lambda chat, folder: chat.stream_edit(1, "hello"),
    "cancel": lambda chat, folder: chat.cancel(),
    "fork": lambda chat, folder: chat.fork(),
    "update": lambda chat, folder: chat.update(title="new"),
    "update_turn": lambda chat, folder: chat.update_turn(UUID(int=1), metadata={"a": 1}),
    "append": lambda chat, folder: chat.append([NewMessage("user", "hello")]),
    "checkout": lambda chat, folder: chat.checkout(1),
    "copy": lambda chat, folder: chat.copy("other"),
    "pin": lambda chat, folder: chat.pin(1),
    "unpin": lambda chat, folder: chat.unpin(1),
    "redact": lambda chat, folder: chat.redact(1),
    "erase": lambda chat, folder: chat.erase(),
}


KIT_CALLS_OF_ONE: Mapping[str, Method] = {
    "conversation": lambda kit, folder: kit.conversation("a"),
    "search": lambda kit, folder: kit.search("hello", key="a"),
    "usage": lambda kit, folder: kit.usage(key="a", by="conversation"),
    "export": lambda kit, folder: kit.export(folder / "one.jsonl", key="a"),
    "export as training data": lambda kit, folder: kit.export(folder / "one.openai", format="openai", key="a"),
    "export as markdown": lambda kit, folder: kit.export(folder / "one.md", format="markdown", key="a"),
}
"""The kit's calls on one conversation."""
DRY_RUNS: Mapping[str, Method] = {
    "redact": lambda kit, folder: kit.chat("a").redact(1, dry_run=True),
    "erase a conversation": lambda kit, folder: kit.chat("a").erase(dry_run=True),
    "erase a person": lambda kit, folder: kit.erase(subject="anna", dry_run=True),
    "purge": lambda kit, folder: kit.purge(older_than=timedelta(0), dry_run=True),
    "import": lambda kit, folder: kit.import_(folder / "export.jsonl", dry_run=True),
    "restore": lambda kit, folder: kit.import_(folder / "export.jsonl", trusted=True, dry_run=True),
    "restore elsewhere": lambda kit, folder: kit.tenant("b").import_(
        folder / "export.jsonl", trusted=True, dry_run=True
    ),
}


def write_history(face: Face, database: str, server: LoopbackServer, folder: Path, *, tenant: str = "default") -> None:
    """Write a conversation with branches, and one whose open turn has no worker, and an export and a checkpoint of both.

    `completion.call.CHUNK_S` should be 0, so that the open turn has text.
    """
    kit = face.kit(database, model="loop-1", base_url=server.url, tenant=tenant)
    chat = kit.chat("a", subject="anna")
    face.settle(chat.send("hello 東京", passages=["a passage"], developer_prompt="Be brief."))
    face.settle(chat.send("and now?"))
    face.settle(chat.regenerate())
    (folder / "turn").write_text(str(face.settle(chat.turns(limit=1))[0].id), "utf-8")
    face.settle(face.settle(chat.fork(name="other")).send("once more"))
    face.settle(chat.pin(2))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    face.settle(chat.append([NewMessage("user", [image])]))
    face.settle(kit.export(folder / "export.jsonl"))
    face.settle(kit.checkpoint(key=KEY, to=folder / "checkpoint"))
    server.script(stream(WORDS))
    leave(face, kit, "gone", "hello")
    face.settle(kit.close())
    server.requests.clear()


def run_chat_reads(face: Face, chat: Any, folder: Path) -> None:
    """Call every method of a chat that reads."""
    chat.first, chat.second = (turn.id for turn in face.settle(chat.turns(limit=2)))
    chat.prompt_digest = face.settle(chat.turn(chat.first)).calls[0].window.prompt
    chat.digest = face.settle(chat.messages(limit=1))[0].content[0]["image_url"]["url"]
    for name, call in CHAT_READS.items():
        answer = call(chat, folder)
        assert (face.collect if name == "follow" else face.settle)(answer) is not None, name
    # Each kind of page has statements of its own. Message 5 is a reply that no branch has any more.
    for page in ({"before": 4}, {"after": 2}, {"around": 3}, {"around": 5}):
        assert face.settle(chat.history(**page)).messages, page


def run_reads(face: Face, kit: Any, folder: Path) -> None:
    """Call every method that reads, on a conversation with branches and on one with an open turn."""
    for call in KIT_READS.values():
        face.settle(call(kit, folder))
    run_chat_reads(face, kit.chat("a"), folder)
    gone = kit.chat("gone")
    assert [(turn.state, turn.worker) for turn in face.settle(gone.turns())] == [("open", "gone")]
    assert [turn.worker for turn in face.settle(gone.history()).turns] == ["gone"]
    for name in ("messages", "log", "context", "verify"):
        face.settle(CHAT_READS[name](gone, folder))


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def list_writes(server: LoopbackServer) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Yield every call that writes to one conversation, by name, as a function of a kit: in the order in which they work.

    A conversation "a" of `write_history`, and the one whose worker is gone, must be there.
    """
    pay = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object", "properties": {}}}}
    later = iter(range(1_000))

    def ask_tool(kit: Any) -> Any:
        server.script(calls(("c1", "double", '{"number": 2}')))
        return kit.chat("tools", tools=[double]).send("twice two?")

    def ask_caller(kit: Any) -> Any:
        server.script(calls(("c2", "pay", "{}")))
        return kit.chat("pay", tools=[pay]).send("pay")

    def summarize(kit: Any) -> Any:
        chat = kit.chat("long", budget=BUDGET, summary=SUMMARY)
        return chat.send(f"turn number {next(later)} and more")

    def update_turn(kit: Any) -> Any:
        chat = kit.chat("a")
        found = chat.turns(limit=1)
        if not isawaitable(found):
            return chat.update_turn(found[0], metadata={"seen": True})

        async def update() -> None:
            await chat.update_turn((await found)[0], metadata={"seen": True})

        return update()

    yield "send", lambda kit: kit.chat("a").send("what now?", idempotency_key="one")
    yield "send", lambda kit: kit.chat("a").send("what now?", idempotency_key="one")
    yield "send", lambda kit: kit.chat("new", title="New", subject="anna", metadata={"plan": "pro"}).send("first")
    yield "send", lambda kit: kit.chat("new").send("second", on_busy="wait", turn_metadata={"shown": True})
    yield "send", lambda kit: kit.chat("new").send("after", messages=[NewMessage("user", "before")], after=0)
    yield "send", lambda kit: kit.chat("new").send("found again", anchor=lambda message: b"digest")
    yield "send", ask_tool
    yield "send", ask_caller
    yield "send", lambda kit: kit.chat("pay", tools=[pay]).send(tool_results={"c2": "paid"})
    for _ in range(12):
        yield "send", summarize
    yield "stream", lambda kit: kit.chat("a").stream("and streamed?")
    yield "append", lambda kit: kit.chat("a").append([NewMessage("user", "noted"), NewMessage("assistant", "yes")])
    yield "append", lambda kit: kit.chat("a").append([], after=4)
    yield "edit", lambda kit: kit.chat("a").edit(2, "changed")
    yield "stream_edit", lambda kit: kit.chat("a").stream_edit(2, "changed again")
    yield "regenerate", lambda kit: kit.chat("a").regenerate()
    yield "stream_regenerate", lambda kit: kit.chat("a").stream_regenerate()
    yield "fork", lambda kit: kit.chat("a").fork(name="third")
    yield "send", lambda kit: kit.chat("a", branch="third").send("on a branch")
    yield "checkout", lambda kit: kit.chat("a").checkout(3)
    yield "pin", lambda kit: kit.chat("a").pin(2)
    yield "unpin", lambda kit: kit.chat("a").unpin(2)
    yield "update", lambda kit: kit.chat("a").update(title="other", metadata={"plan": None}, archived=True)
    yield "update_turn", update_turn
    yield "copy", lambda kit: kit.chat("a").copy("copied")
    yield "redact", lambda kit: kit.chat("a").redact(2)
    yield "resume", lambda kit: kit.chat("gone").resume()
    yield "cancel", lambda kit: kit.chat("a").cancel()
    yield "erase", lambda kit: kit.chat("tools").erase()
