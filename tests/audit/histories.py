"""Write conversations with rows in every table, and lawful removals."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, and_, insert, select, update

from convokit import Convokit, Retry
from convokit.domain import hashchain as chains
from convokit.errors import Interrupted
from convokit.store import chain, conversations
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import blob, branch, chunk, completion, conversation, message, removal, summary
from tests.support.server import LoopbackServer, Script, failure, stream
from tests.support.server import completion as answer

PIXEL = base64.b64encode(b"\x89PNG a pixel").decode()
IMAGE: list[dict[str, Any]] = [
    {"type": "text", "text": "What is this? これは何ですか"},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
]


@dataclass
class Histories:
    """The conversations of one database. `rich` holds all but a removal, `erased` one erased and two redacted rows."""

    engine: Engine
    rich: UUID
    erased: UUID
    open: UUID
    empty: UUID


def weather(city: str) -> str:
    """Return the weather."""
    return f"in {city} it rains"


def _calls(*cities: str) -> Script:
    calls = [
        {
            "id": f"call_{city}",
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"city": city})},
        }
        for city in cities
    ]
    return answer(None, tool_calls=calls)


def write_histories(database: str, server: LoopbackServer) -> Histories:
    settings: dict[str, Any] = {
        "model": "loop-1",
        "base_url": server.url,
        "retry": Retry(attempts=2, initial_s=0.001),
    }
    with Convokit(database, developer_prompt="Be terse.", **settings) as kit:
        rich = _rich(kit, server)
        erased = kit.chat("erased")
        for number in range(4):
            erased.send(f"secret {number}", passages=["a passage"])
        server.script(failure(500, "secret"), answer("at last"))
        erased.send("secret 4")
        assert erased.id
    engine = open_engine(parse_database_url(database))
    opened = _left_open(database, settings)
    empty = _row(opened)
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        _beside(connection, rich)
        remove(connection, erased.id, "message:3")
        remove(connection, erased.id, "message:1")
        remove(connection, erased.id, "*")
    with Convokit(database, developer_prompt="Be terse.", **settings) as kit:
        kit.chat("erased").send("anew")
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        remove(connection, erased.id, "message:16")
        copied = f"{rich}:12:{'ab' * 32}"
        extend(connection, erased.id, "import", copied, chains.compute_commitment(b"", [copied]))
        connection.execute(insert(conversation), {**_values(connection, opened), **empty})
    return Histories(engine, rich, erased.id, opened, empty["id"])


def _rich(kit: Convokit, server: LoopbackServer) -> UUID:
    chat = kit.chat("rich", subject="a person", title="題名", metadata={"a": 1})
    chat.send("hello", idempotency_key="once")
    chat.send(IMAGE)
    chat.send("with passages", passages=["first passage", "second passage"])
    server.script(_calls("Osaka", "Kyoto"), answer("it rains in both"))
    chat.send("weather?", tools=[weather])
    server.script(stream(["half ", "a "], finish=None, done=False))
    with contextlib.suppress(Interrupted):
        list(chat.stream("say much"))
    server.script(failure(500), answer("the second try"))
    chat.send("again")
    server.script(answer(None, audio={"id": "a", "expires_at": 2**40, "data": PIXEL, "transcript": "聞こえますか"}))
    chat.send("speak", modalities=["text", "audio"], audio={"format": "wav", "voice": "alloy"})
    several = json.loads(str(answer("one").pieces[0], "utf-8"))  # type: ignore[arg-type]
    several["choices"].append({**several["choices"][0], "index": 1, "message": {"role": "assistant", "content": "two"}})
    server.script(Script([json.dumps(several).encode()]))
    chat.send("choose", n=2)
    assert chat.id
    with kit._runtime._store.engine.execution_options(**{WRITE: True}).begin() as connection:
        values = {"conversation_id": chat.id, "number": 1, "name": "other", "head_seq": 4, "created_at": 1}
        connection.execute(insert(branch), values)
    other = kit.chat("rich")
    other._ref.branch = 1
    other.send("on another branch", tools=[])
    other.send("further on it")
    chat.send("on the main branch")
    described = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    server.script(_calls("Osaka", "Kyoto"), _calls("Nara"))
    first = chat.send("shall we go?", tools=[described])
    second = chat.send(tool_results={call["id"]: IMAGE for call in first.open_calls}, tools=[described])
    results = {second.open_calls[0]["id"]: "no"}
    chat.send("and now?", tool_results=results, tools=[described], anchor=lambda message: b"digest")
    return chat.id


def _left_open(database: str, settings: dict[str, Any]) -> UUID:
    """Leave a turn open, with a piece of its reply stored."""
    kit = Convokit(database, **settings)
    chat = kit.chat("open")
    events = iter(chat.stream("a question"))
    turn_id = next(events).turn_id  # type: ignore[union-attr]
    kit.close()
    events.close()  # type: ignore[attr-defined]
    assert chat.id
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        values = {"conversation_id": chat.id, "turn_id": turn_id, "completion": 1, "number": 1, "text": "never "}
        connection.execute(insert(chunk), values)
    engine.dispose()
    return chat.id


def _row(like: UUID) -> dict[str, Any]:
    """Return what tells a conversation without anything in it from another one."""
    made = (
        UUID(int=like.int ^ 1 & ~(0xF << 76) | 7 << 76)
        if like.version == 7
        else UUID("00000000-0000-7000-8000-000000000001")
    )
    nothing = {"key": None, "head_seq": None, "last_seq": 0, "last_entry": 0}
    return {"id": made, **nothing, "chain_hash": chains.genesis_hash(made)}


def _values(connection: Connection, conversation_id: UUID) -> dict[str, Any]:
    row = connection.execute(select(conversation).where(conversation.c.id == conversation_id)).mappings().one()
    return dict(row)


def _beside(connection: Connection, conversation_id: UUID) -> None:
    values = {"number": 1, "from_seq": 1, "to_seq": 2, "message_seq": 3, "created_at": 1}
    connection.execute(insert(summary), {"conversation_id": conversation_id, **values})


def extend(connection: Connection, conversation_id: UUID, kind: chains.EntryKind, ref: str, committed: bytes) -> int:
    """Add an entry to a conversation's chain, as whoever may write every table can. Return its number."""
    row = _values(connection, conversation_id)
    added = chains.extend_chain(row["last_entry"], bytes(row["chain_hash"]), [chains.HashInput(kind, ref, committed)])
    chain.append_entries(connection, conversation_id, added)
    moved = {"last_entry": added[0].number, "chain_hash": added[0].hash}
    connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(moved))
    return added[0].number


def remove(connection: Connection, conversation_id: UUID, ref: str) -> int:
    """Remove what `ref` names, with its entry and its record, as a lawful removal does. Return the entry's number."""
    number = record(connection, conversation_id, ref)
    emptied: dict[str, Any] = {"status": "redacted"}
    emptied |= dict.fromkeys(("content", "parts", "tool_calls", "name", "refusal", "extra", "salt"))
    which = [message.c.conversation_id == conversation_id]
    calls = [completion.c.conversation_id == conversation_id, completion.c.ended_at.is_not(None)]
    if ref != "*":
        kind, _, name = ref.partition(":")
        which.append(message.c.seq == (int(name) if kind == "message" else -1))
        calls.append(completion.c.number == -1)
    connection.execute(update(message).where(and_(*which)).values(emptied))
    connection.execute(update(completion).where(and_(*calls)).values(details=None, error=None, salt=None))
    if ref == "*":
        connection.execute(blob.delete().where(blob.c.conversation_id == conversation_id))
    return number


def record(connection: Connection, conversation_id: UUID, ref: str) -> int:
    """Write the entry and the record of a removal, and remove nothing."""
    number: int = _values(connection, conversation_id)["last_entry"] + 1
    salt, covered = chains.new_salt(), [number, ref, "an auditor", "the law", 1_700_000_000_000_000]
    kind: chains.EntryKind = "erasure" if ref == "*" else "redaction"
    extend(connection, conversation_id, kind, ref, chains.compute_commitment(salt, covered))
    values = {"number": number, "ref": ref, "author": covered[2], "reason": covered[3], "created_at": covered[4]}
    connection.execute(insert(removal), {"conversation_id": conversation_id, "salt": salt, **values})
    return number


def found(connection: Connection, conversation_id: UUID, tenant: str = "default") -> Any:
    """Return the conversation's row."""
    return conversations.find(connection, tenant, conversation_id)
