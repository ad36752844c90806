"""Everybody at once: many processes of many threads on one conversation, on several, and on its branches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import AsyncConvokit, Convokit, Timeouts
from tests.faults import oracles
from tests.faults.child_process import PATIENCE_S, Child, opened, rows
from tests.support.selection import Effort
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.soak(sample=True)

PATIENT = Timeouts(busy_s=300)


def run(**order: Any) -> list[dict[str, Any]]:
    """Return everything that the appenders said."""
    with Child("append_process", json.dumps(order)) as child:
        return child.rest()


def check_load(database: str, server: LoopbackServer, said: list[dict[str, Any]], keys: int) -> None:
    """Hold what was acknowledged and what was read meanwhile against what is stored in the end."""
    assert [each for each in said if "error" in each] == []
    conversations = []
    with Convokit(database, model="m", base_url=server.url) as kit:
        for number in range(keys):
            key = f"c{number}"
            conversations.append(found := oracles.check_conversation(database, key))
            told = {each["name"]: each["text"] for each in said if each.get("chat") == key and "name" in each}
            oracles.check_once(found, told)
            path = [[each.seq, each.text] for each in kit.chat(key).messages(limit=1000)]
            assert [text for _, text in path] == [each["content"] for each in found.messages][-1000:]
            check_prefixes([each["read"] for each in said if "read" in each and each["chat"] == key], path)
            placed = [(each["seq"], each["text"]) for each in said if each.get("chat") == key and "name" in each]
            assert set(placed) <= {(each["seq"], each["content"]) for each in found.messages}
            assert len(set(placed)) == len(placed)
    oracles.check_calls(conversations, [request.raw for request in server.requests])
    assert sum(len(found.completions) for found in conversations) == len(server.requests)


def check_prefixes(reads: Iterable[list[Any]], path: list[Any]) -> None:
    """Check that every read saw the list as it once was: for a list that is only appended to, a prefix of its end."""
    for read in reads:
        begins = path.index(read[0]) if read else 0
        assert read == path[begins : begins + len(read)]
        assert begins == 0 or len(read) == 1000


@pytest.mark.soak(sample=True)
def test_one_conversation_takes_turns_from_eight_processes_of_eight_threads(
    database: str, server: LoopbackServer, effort: Effort
) -> None:
    """No turn is lost, doubled or refused, the order is dense, every read is a prefix, and each call has its row."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("c0").send("first")
    said = run(database=database, url=server.url, each=20 if effort == "soak" else 1)
    check_load(database, server, said, keys=1)
    assert any("read" in each for each in said)


@pytest.mark.once
def test_a_conversation_is_created_once_by_all_who_send_first(database: str, server: LoopbackServer) -> None:
    """Several conversations, each new to everybody: all turns are there, and no conversation sees another's."""
    said = run(database=database, url=server.url, processes=4, threads=3, keys=4)
    check_load(database, server, said, keys=4)


@pytest.fixture
def app_log(database: str, server: LoopbackServer) -> str:
    """A database with a conversation, and a table of the application's own beside convokit's."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("c0").send("first")
    with opened(database) as connection:
        connection.execute(sql("CREATE TABLE app_log (seq BIGINT, name TEXT)"))
    return database


@pytest.mark.soak(sample=True)
def test_an_applications_own_transactions_append_side_by_side(app_log: str, effort: Effort) -> None:
    """`convokit.store` in a caller's transaction: what it wrote and what the application wrote are there together, once."""
    each = 40 if effort == "soak" else 1
    said = run(database=app_log, what="rows", each=each, readers=0)
    assert [one for one in said if "error" in one] == []
    assert len(said) == 64 * each
    found = oracles.check_conversation(app_log, "c0")
    oracles.check_once(found, {one["name"]: f"echo: {one['name']}" for one in said})
    logged = dict(rows(app_log, "SELECT name, seq FROM app_log"))
    assert logged == {one["name"]: one["seq"] for one in said}
    assert {one["content"]: one["seq"] for one in found.messages if one["content"] != "echo: first"}.items() >= {
        f"echo: {name}": seq for name, seq in logged.items()
    }.items()


@pytest.mark.soak(sample=True)
def test_a_deferred_begin_would_be_seen(files: Any, server: LoopbackServer) -> None:
    """The control: with reading transactions that turn into writing ones, SQLite refuses, and this harness sees it."""
    database = files.migrated()
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("c0").send("first")
    with opened(database) as connection:
        connection.execute(sql("CREATE TABLE app_log (seq BIGINT, name TEXT)"))
    said = run(database=database, what="rows", each=2, readers=0, deferred=True)
    assert any("database is locked" in one.get("error", "") for one in said)


@pytest.mark.soak(sample=True)
def test_positions_without_compare_and_swap_would_be_seen(app_log: str) -> None:
    """The control: positions taken as the highest plus one come out twice, and this harness sees it."""
    said = run(database=app_log, what="highest", processes=4, threads=4, each=2, readers=0)
    placed = [one["seq"] for one in said if "seq" in one]
    assert placed
    assert len(set(placed)) < len(placed)


def test_branches_grow_side_by_side(database: str, server: LoopbackServer) -> None:
    """Branches of one conversation have turns at the same time; each sees its own path, and the chain holds them all."""
    with Convokit(database, model="m", base_url=server.url, timeouts=PATIENT) as kit:
        chats = [kit.chat("c0") for _ in range(4)]
        chats[0].send("root")
        with opened(database) as connection:
            for number in (1, 2, 3):
                values = {"number": number}
                connection.execute(
                    sql(
                        "INSERT INTO convokit_branch (conversation_id, number, head_seq, created_at)"
                        " SELECT id, :number, head_seq, 1 FROM convokit_conversation"
                    ),
                    values,
                )
        for number, chat in enumerate(chats):
            chat._ref.branch = number
        said = _at_once(
            [lambda number=number, chat=chat: _talk(chat, f"b{number}") for number, chat in enumerate(chats)]
        )
        for number, chat in enumerate(chats):
            texts = [message.text for message in chat.messages()]
            own = [text for turn in range(6) for text in (f"b{number}.{turn}", f"echo: b{number}.{turn}")]
            assert texts == ["root", "echo: root", *own]
    found = oracles.check_conversation(database, "c0")
    oracles.check_once(found, {name: text for each in said for name, text in each.items()})
    oracles.check_calls([found], [request.raw for request in server.requests])


def _talk(chat: Any, name: str, turns: int = 6) -> dict[str, str]:
    """Return what was answered to a few turns in a row."""
    return {f"{name}.{turn}": chat.send(f"{name}.{turn}", on_busy="wait").text for turn in range(turns)}


def _at_once(work: list[Any]) -> list[Any]:
    """Return what several functions returned that ran in threads. Raises: what one of them raised."""
    outcomes: list[Any] = [None] * len(work)

    def guarded(number: int) -> None:
        try:
            outcomes[number] = work[number]()
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(len(work))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def test_threads_share_one_chat(database: str, server: LoopbackServer) -> None:
    """One handle serves many threads: their turns come one after the other, none lost, none refused."""
    with Convokit(database, model="m", base_url=server.url, timeouts=PATIENT) as kit:
        chat = kit.chat("c0")
        said = _at_once([lambda number=number: _talk(chat, f"t{number}", 2) for number in range(8)])
    found = oracles.check_conversation(database, "c0")
    oracles.check_once(found, {name: text for each in said for name, text in each.items()})
    assert len(found.messages) == 32


def test_tasks_share_one_chat(database: str, server: LoopbackServer) -> None:
    """One handle serves many tasks: their turns come one after the other, none lost, none refused."""

    async def talk(chat: Any, name: str) -> dict[str, str]:
        return {name: (await chat.send(name, on_busy="wait", idempotency_key=name)).text}

    async def main() -> list[dict[str, str]]:
        async with AsyncConvokit(database, model="m", base_url=server.url, timeouts=PATIENT) as kit:
            chat = kit.chat("c0")
            return list(await asyncio.gather(*(talk(chat, f"t{number}") for number in range(16))))

    said = asyncio.run(main())
    found = oracles.check_conversation(database, "c0")
    oracles.check_once(found, {name: text for each in said for name, text in each.items()})
    assert len(found.messages) == 32


FORKED = """
import asyncio, os, sys
from convokit import AsyncConvokit, Convokit, Timeouts
kit = Convokit(sys.argv[1], model="m", base_url=sys.argv[2], timeouts=Timeouts(busy_s=300))
akit = AsyncConvokit(sys.argv[1], model="m", base_url=sys.argv[2], timeouts=Timeouts(busy_s=300))
async def asend(name):
    return (await akit.chat("c0").send(name, on_busy="wait")).text
def talk(who):
    for number in range(3):
        assert kit.chat("c0").send(f"{who}.{number}", on_busy="wait").text == f"echo: {who}.{number}"
        assert asyncio.run(asend(f"{who}.a{number}")) == f"echo: {who}.a{number}"
talk("before")
pids = []
for number in range(4):
    pid = os.fork()
    if not pid:
        try:
            talk(f"child{number}")
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    pids.append(pid)
talk("parent")
sys.exit(any([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]))
"""


@pytest.mark.soak(sample=True)
def test_a_kit_made_before_a_fork_serves_everybody(database: str, server: LoopbackServer) -> None:
    """Kits that were used before a fork (a preloading server) write one conversation from parent and four children."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, database, server.url]
    with subprocess.Popen(command, start_new_session=True) as parent:
        try:
            assert parent.wait(PATIENCE_S) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
    found = oracles.check_conversation(database, "c0")
    workers = ["before", "parent", *(f"child{number}" for number in range(4))]
    names = [f"{worker}.{turn}" for worker in workers for turn in ("0", "1", "2", "a0", "a1", "a2")]
    oracles.check_once(found, {name: f"echo: {name}" for name in names})
    assert len(found.messages) == 2 * len(names)
    oracles.check_calls([found], [request.raw for request in server.requests])
