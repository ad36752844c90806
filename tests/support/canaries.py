"""A conversation with a text of its own in every place that holds texts, and a search for them in every place there is."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, select
from sqlalchemy.engine import make_url

from convokit.errors import ConvokitError
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import branch, chunk, metadata, summary, turn
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, failure
from tests.support.server import chunk as piece

QUESTION = "canary-question 私の電話番号は秘密です"
PASSAGE = "canary-passage of a file"
REPLY = 'canary-reply: "quoted"\nand a second line'
REASONING = "canary-reasoning of a model"
ARGUMENT = "canary-argument 東京都千代田区"
RESULT = "canary-result of a tool"
FILENAME = "canary-filename 履歴書.pdf"
BINARY = b"canary-binary \x00\x01\x02" * 40
PARTIAL = "canary-partial reply that broke off"
ERROR = "canary-error that a server told"
SUBJECT = "canary-subject"
TITLE = "canary-title 病気"
METADATA = "canary-metadata 住所"
PROMPT = "canary-developer-prompt for one chat alone"
TOOL = "canary-tool-description"
PARAM = "canary-stop-sequence"
PIECE = "canary-piece of a reply on its way"
SUMMARY = "canary-summary of what was said"
BRANCH = "canary-branch-name"
REFUSAL = "canary-refusal of a model"
EVERYTHING: list[str | bytes] = [
    *(QUESTION, PASSAGE, REPLY, REASONING, ARGUMENT, RESULT, FILENAME, BINARY[:40], PARTIAL, ERROR, SUBJECT),
    *(TITLE, METADATA, PROMPT, TOOL, PARAM, PIECE, SUMMARY, BRANCH, REFUSAL),
]
ONCE = "a key of a request"


def lookup(address: str) -> str:
    """Look an address up: canary-tool-description."""
    return RESULT


def asking() -> Script:
    """Return an answer that calls the tool."""
    function = {"name": "lookup", "arguments": json.dumps({"address": ARGUMENT})}
    return completion(None, tool_calls=[{"id": "c1", "type": "function", "function": function}])


def fill(
    face: Face, kit: Any, server: LoopbackServer, database: str, key: str = "k", *, stray: bool = True, **settings: Any
) -> Any:
    """Return a chat whose conversation holds every canary. Messages: 1 passage, 2 question, 3 call, 4 result, 5 reply,
    6 file, 7 its reply, 8 and 9 a reply that broke off, 10 a question that failed, 11 and 12 a refusal, 13 and 14 a summary.
    `stray` leaves a piece of a reply on its way, which no turn that is over should have.
    """
    given = {"subject": SUBJECT, "title": TITLE, "metadata": {"home": METADATA}, **settings}
    chat = kit.chat(key, developer_prompt=PROMPT, tools=[lookup], stop=[PARAM], **given)
    server.script(asking(), completion(REPLY, reasoning_content=REASONING))
    face.settle(chat.send(QUESTION, passages=[PASSAGE], idempotency_key=ONCE))
    data = f"data:application/pdf;base64,{base64.b64encode(BINARY).decode()}"
    server.script(completion("I have read it."))
    face.settle(chat.send([{"type": "file", "file": {"filename": FILENAME, "file_data": data}}]))
    server.script(Script([piece({"content": PARTIAL}), None], headers={"content-type": "text/event-stream"}))
    _failing(face, lambda: face.collect(chat.stream("go on")))
    server.script(failure(422, ERROR))
    _failing(face, lambda: face.settle(chat.send("and then?")))
    server.script(completion(None, refusal=REFUSAL))
    face.settle(chat.send("well?"))
    server.script(completion(SUMMARY))
    face.settle(chat.send("sum up"))
    change(database, lambda connection: _by_hand(connection, chat.id, stray=stray))
    return chat


def _failing(face: Face, call: Any) -> None:
    try:
        call()
    except ConvokitError:
        return
    raise AssertionError("it did not fail")


def _by_hand(connection: Connection, identity: UUID, *, stray: bool) -> None:
    """Write what is there only for a moment, or not yet: a piece, a branch's name, a summary."""
    its = {"conversation_id": identity}
    turn_id = connection.execute(select(turn.c.id).where(turn.c.conversation_id == identity).limit(1)).scalar_one()
    if stray:
        connection.execute(insert(chunk), {**its, "turn_id": turn_id, "completion": 1, "number": 1, "text": PIECE})
    connection.execute(insert(branch), {**its, "number": 1, "name": BRANCH, "head_seq": 5, "created_at": 1})
    over = {"number": 1, "from_seq": 2, "to_seq": 5, "message_seq": 14, "created_at": 1}
    connection.execute(insert(summary), {**its, **over})


def change(database: str, work: Any) -> Any:
    """Run something over a connection, in a writing transaction beside the kit."""
    engine = open_engine(parse_database_url(database))
    try:
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def forms(canary: str | bytes) -> list[bytes]:
    """Return a text as it may be written: in UTF-8, and as JSON escapes it."""
    if isinstance(canary, bytes):
        return [canary]
    once = [json.dumps(canary)[1:-1], json.dumps(canary, ensure_ascii=False)[1:-1]]
    return [each.encode() for each in (canary, *once, *(json.dumps(each)[1:-1] for each in once))]


def in_rows(database: str, canary: str | bytes) -> list[str]:
    """Return the columns that hold a canary, in any table that the database has of ours."""

    def look(connection: Connection) -> list[str]:
        found = []
        for table in metadata.tables.values():
            for row in connection.execute(select(table)).mappings():
                for name, value in row.items():
                    data = value.encode() if isinstance(value, str) else value
                    if isinstance(data, bytes) and any(form in data for form in forms(canary)):
                        found.append(f"{table.name}.{name}")
        return found

    return sorted(set(change(database, look)))


def in_bytes(database: str, canary: str | bytes) -> list[str]:
    """Return the files of a SQLite database that hold a canary; none on a server."""
    url = make_url(database)
    if url.get_backend_name() != "sqlite":
        return []
    path = Path(str(url.database))
    files = [each for each in path.parent.glob(f"{path.name}*") if each.suffix != ".db-shm"]
    return [each.name for each in files if any(form in each.read_bytes() for form in forms(canary))]


def everywhere(database: str, canary: str | bytes) -> list[str]:
    """Return every place that holds a canary."""
    return in_rows(database, canary) + in_bytes(database, canary)
