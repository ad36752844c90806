"""What must hold of a conversation after any fault, read from the database itself.

Every function takes what a test holds anyway: a database URL and a conversation's key, and what was acknowledged to callers
or seen by the server. `Broken` says which rule does not hold, and where.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Table, select
from sqlalchemy.engine import make_url

from convokit import Convokit
from convokit.context.validity import find_problems
from convokit.domain.hashchain import compute_salted_digest
from convokit.domain.ids import derive_conversation_id
from convokit.store import schema
from convokit.store.engine import open_engine, parse_database_url

Row = dict[str, Any]
_COMPILED: dict[Any, Any] = {}
"""One cache of compiled statements for all engines."""


class Broken(AssertionError):
    """A rule does not hold."""


@dataclass(slots=True, repr=False)
class Found:
    """A conversation's rows, messages by seq. `row` is None while there is no such conversation."""

    row: Row | None
    messages: list[Row] = field(default_factory=list)
    turns: list[Row] = field(default_factory=list)
    completions: list[Row] = field(default_factory=list)
    chunks: list[Row] = field(default_factory=list)
    tool_calls: list[Row] = field(default_factory=list)
    summaries: list[Row] = field(default_factory=list)

    def texts(self, role: str, *statuses: str) -> list[str]:
        """Return the texts of one role's messages, in order; only those of the statuses given, if any are."""
        return [
            str(each["content"])
            for each in self.messages
            if each["role"] == role and (not statuses or each["status"] in statuses)
        ]


def check_conversation(url: str, key: str, *, tenant: str = "default", kit: Convokit | None = None) -> Found:
    """Check everything that holds of one conversation at any moment, and return its rows. `kit` is one to use, if there is one.

    The file is sound, seqs are dense, every turn has one question and at most one whole reply, everything of a turn follows its
    own question, closed turns left nothing running, the chain verifies, and the next request would be accepted.
    """
    check_file(url)
    found = find(url, key, tenant=tenant)
    if found.row is None:
        return found
    _check_seqs(found)
    _check_turns(found)
    _check_closed_turns(found)
    _check_summaries(found)
    used = kit or Convokit(url, model="m", tenant=tenant)
    try:
        used.chat(key).verify()
        check_request(used.chat(key).context("what comes next").messages)
    finally:
        if kit is None:
            used.close()
    return found


def check_file(url: str) -> None:
    """Check that SQLite finds its file sound; PostgreSQL's pages are its own affair."""
    if make_url(url).get_backend_name() != "sqlite":
        return
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:
        said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        strays = connection.execute("PRAGMA foreign_key_check").fetchall()
    if said != ["ok"] or strays:
        raise Broken(f"integrity_check says {said[:3]}, foreign_key_check {strays[:3]}")


def check_request(messages: Sequence[Row]) -> None:
    """Check that a server would accept this `messages` array."""
    found = find_problems(messages)
    if found:
        raise Broken(f"the array is not valid: {'; '.join(found)}")


def check_calls(found: Iterable[Found], bodies: Iterable[bytes]) -> list[Row]:
    """Check that every request the server saw has an API call's row of its own, with the digest of those very bytes.

    Returns the rows that are left, whose requests the server did not see.
    """
    rows = [call for each in found for call in each.completions]
    for body in bodies:
        match = next((call for call in rows if _is_digest_of(call, body)), None)
        if match is None:
            raise Broken(f"a request that was sent has no row: {body[-120:]!r}")
        rows.remove(match)
    return rows


def _is_digest_of(call: Row, body: bytes) -> bool:
    return compute_salted_digest(bytes(call["body_salt"]), body) == bytes(call["body_digest"])


def check_acknowledged(found: Found, questions: Iterable[str], replies: Iterable[str]) -> None:
    """Check that what a caller was told is stored is there: its questions, and whole replies."""
    for role, told in (("user", questions), ("assistant", replies)):
        lost = Counter(told) - Counter(found.texts(role, "complete"))
        if lost:
            raise Broken(f"acknowledged, and lost ({role}): {sorted(lost)}")


def check_once(found: Found, replies: dict[str, str]) -> None:
    """Check that each question of `replies` is there once, and its turn has this one whole reply."""
    asked = Counter(found.texts("user"))
    for question, reply in replies.items():
        if asked[question] != 1:
            raise Broken(f"{question!r} is stored {asked[question]} times")
        turn_id = next(each["turn_id"] for each in found.messages if each["content"] == question)
        whole = [each["content"] for each in _whole_replies(found, turn_id)]
        if whole != [reply]:
            raise Broken(f"{question!r} has the whole replies {whole}, not {reply!r}")


def find(url: str, key: str, *, tenant: str = "default") -> Found:
    """Return a conversation's rows from one snapshot; nothing is checked."""
    engine = open_engine(parse_database_url(url)).execution_options(compiled_cache=_COMPILED)
    try:
        with engine.connect() as connection:
            database_id = UUID(str(connection.execute(select(schema.schema_.c.database_id)).scalar_one()))
            conversation_id = derive_conversation_id(database_id, tenant, key)
            table = schema.conversation
            row = connection.execute(select(table).where(table.c.id == conversation_id)).mappings().first()
            if row is None:
                return Found(None)
            return Found(
                dict(row),
                _rows(connection, schema.message, conversation_id, "seq"),
                _rows(connection, schema.turn, conversation_id, "question_seq"),
                _rows(connection, schema.completion, conversation_id, "started_at", "number"),
                _rows(connection, schema.chunk, conversation_id, "number"),
                _rows(connection, schema.tool_call, conversation_id, "message_seq", "position"),
                _rows(connection, schema.summary, conversation_id, "number"),
            )
    finally:
        engine.dispose()


def _rows(connection: Connection, table: Table, conversation_id: UUID, *order: str) -> list[Row]:
    statement = select(table).where(table.c.conversation_id == conversation_id)
    found = connection.execute(statement.order_by(*(table.c[name] for name in order)))
    return [dict(row) for row in found.mappings()]


def _whole_replies(found: Found, turn_id: UUID) -> list[Row]:
    return [
        each
        for each in found.messages
        if each["turn_id"] == turn_id
        and each["role"] == "assistant"
        and each["status"] == "complete"
        and not each["tool_calls"]
    ]


def _check_seqs(found: Found) -> None:
    assert found.row is not None
    seqs = [each["seq"] for each in found.messages]
    if seqs != list(range(1, len(seqs) + 1)) or found.row["last_seq"] != len(seqs):
        raise Broken(f"seqs are not dense: {seqs}, last_seq {found.row['last_seq']}")
    by_seq = {each["seq"]: each for each in found.messages}
    questions = {turn["id"]: turn["question_seq"] for turn in found.turns}
    for each in found.messages:
        parent = by_seq.get(each["parent_seq"])
        if each["parent_seq"] is not None and (parent is None or parent["seq"] >= each["seq"]):
            raise Broken(f"message {each['seq']} follows {each['parent_seq']}")
        follows = parent is not None and (
            parent["turn_id"] == each["turn_id"] or parent["seq"] == questions.get(each["turn_id"])
        )
        # A result from the caller follows the reply of an earlier turn.
        answers = each["role"] == "tool" and parent is not None and parent["role"] in ("assistant", "tool")
        if each["role"] != "user" and not follows and not answers:
            raise Broken(f"message {each['seq']} ({each['role']}, {each['status']}) does not follow its own turn")


def _check_turns(found: Found) -> None:
    by_seq = {each["seq"]: each for each in found.messages}
    for turn in found.turns:
        asked = [
            each["seq"]
            for each in found.messages
            if each["turn_id"] == turn["id"] and each["role"] == "user" and each["status"] != "summary"
        ]
        if asked != ([turn["question_seq"]] if turn["after_entry"] is None else []):
            raise Broken(f"turn {turn['id']} has the questions {asked}, names {turn['question_seq']}")
        whole = [each["seq"] for each in _whole_replies(found, turn["id"])]
        if len(whole) > 1:
            raise Broken(f"turn {turn['id']} has the whole replies {whole}")
        reply = by_seq.get(turn["reply_seq"])
        if turn["state"] == "completed" and (reply is None or reply["turn_id"] != turn["id"]):
            raise Broken(f"turn {turn['id']} is completed, and its reply is {turn['reply_seq']}")
    strays = {each["turn_id"] for each in found.completions} - {turn["id"] for turn in found.turns}
    if strays:
        raise Broken(f"API calls of no turn: {strays}")


def _check_summaries(found: Found) -> None:
    texts = [(each["seq"], each["parent_seq"]) for each in found.messages if each["status"] == "summary"]
    stand = [(each["message_seq"], each["to_seq"]) for each in found.summaries]
    if texts != stand:
        raise Broken(f"summaries are stored as {texts}, and stand for messages as {stand}")


def _check_closed_turns(found: Found) -> None:
    closed = {turn["id"]: turn["state"] for turn in found.turns if turn["state"] != "open"}
    for turn in found.turns:
        if (turn["claim"] is None) != (turn["id"] in closed):
            raise Broken(f"turn {turn['id']} is {turn['state']}, its claim {turn['claim']}")
    for call in found.completions:
        if call["turn_id"] in closed and call["ended_at"] is None:
            raise Broken(f"call {call['number']} of a turn that is {closed[call['turn_id']]} is still {call['state']}")
    for tool in found.tool_calls:
        if tool["turn_id"] in closed and tool["state"] == "running":
            raise Broken(f"tool call {tool['call_id']} of a turn that is {closed[tool['turn_id']]} is still running")
    if any(each["turn_id"] in closed for each in found.chunks):
        raise Broken("a closed turn left pieces of its reply behind")
