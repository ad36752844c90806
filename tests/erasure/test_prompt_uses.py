"""Delete a prompt with its last use, and never one that a starting turn uses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, text

from convokit import Convokit
from convokit.domain.stored_request import compute_prompt_digest
from convokit.erasure import residue, sql
from convokit.errors import ChainBroken
from convokit.store import blobs
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import conversation, prompt, prompt_use
from tests.support.canaries import change
from tests.support.faces import Face
from tests.support.server import LoopbackServer

PROMPT = "You answer in one sentence. 一文で答えます。"
DIGEST = compute_prompt_digest(PROMPT)
_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = :pid")


def _read_prompts(connection: Connection) -> list[tuple[str, bytes]]:
    return [(tenant, bytes(digest)) for tenant, digest in connection.execute(select(prompt.c.tenant, prompt.c.digest))]


def _read_uses(connection: Connection) -> list[tuple[str | None, bytes]]:
    query = select(conversation.c.key, prompt_use.c.digest).join(
        conversation, conversation.c.id == prompt_use.c.conversation_id
    )
    return sorted((key, bytes(digest)) for key, digest in connection.execute(query))


@pytest.fixture
def writers(postgres: Any, server: LoopbackServer) -> Iterator[Engine]:
    """Return an engine of a PostgreSQL database with the conversations `old`, which used the prompt, and `new`."""
    database = postgres.migrated()
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("old", developer_prompt=PROMPT).send("hello")
        kit.chat("new").send("hello")
    engine = open_engine(parse_database_url(database))
    with engine.begin() as connection:
        connection.execute(prompt_use.delete())
    yield engine
    engine.dispose()
    postgres.release(database)


def _start_turn(connection: Connection) -> None:
    used: Any = connection.execute(select(conversation.c.id).where(conversation.c.key == "new")).scalar_one()
    blobs.insert_prompts(connection, "default", used, [(DIGEST, PROMPT)])


def _delete(connection: Connection) -> int:
    return residue.delete_unused_prompts(connection, "default", [DIGEST])


def _run_behind(engine: Engine, first: Callable[[Connection], Any], second: Callable[[Connection], Any]) -> list[Any]:
    """Run `first`, commit it as soon as `second` waits for it, and return both results."""
    results: list[Any] = []
    pids: list[int] = []
    is_started = threading.Event()

    def run() -> None:
        with engine.begin() as connection:
            pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
            is_started.set()
            results.append(second(connection))

    thread = threading.Thread(target=run)
    with engine.connect() as observer, engine.begin() as connection:
        results.append(first(connection))
        thread.start()
        assert is_started.wait(10)
        while not observer.execute(_WAITING, {"pid": pids[0]}).scalar_one():
            assert thread.is_alive(), "the second transaction has to wait for the first"
    thread.join(10)
    return results


def test_deletion_waits_for_a_turn_that_uses_the_prompt(writers: Engine) -> None:
    """The prompt stays: the deletion sees the use that was committed while it waited."""
    assert _run_behind(writers, _start_turn, _delete) == [None, 0]
    with writers.connect() as connection:
        assert _read_prompts(connection) == [("default", DIGEST)]
        assert _read_uses(connection) == [("new", DIGEST)]


def test_turn_waits_for_a_deletion_and_stores_the_prompt_again(writers: Engine) -> None:
    """A use never names a prompt that is gone."""
    assert _run_behind(writers, _delete, _start_turn) == [1, None]
    with writers.connect() as connection:
        assert _read_prompts(connection) == [("default", DIGEST)]
        assert _read_uses(connection) == [("new", DIGEST)]


def test_turns_in_steady_state_read_a_key_of_their_conversation(database: str, server: LoopbackServer) -> None:
    """The second turn reads its use, and neither the body of the prompt nor its row."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k", developer_prompt=PROMPT)
        chat.send("hello")
        seen: list[str] = []
        event.listen(
            kit._runtime._store.engine,
            "before_cursor_execute",
            lambda connection, cursor, statement, *rest: seen.append(statement),
        )
        chat.send("again")
    about_prompts = [statement for statement in seen if "convokit_prompt" in statement]
    assert len(about_prompts) == 1
    assert about_prompts[0].startswith("SELECT convokit_prompt_use.digest")
    assert "convokit_prompt_use.conversation_id = " in about_prompts[0]


@pytest.mark.once
def test_uses_live_as_long_as_manifests_that_name_the_prompt(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """A redaction keeps manifest, use and prompt. An erasure removes them all, and a later turn writes them again."""
    chats = [kit.chat(key, developer_prompt=PROMPT) for key in ("a", "b")]
    for chat in chats:
        face.settle(chat.send("hello"))
        face.settle(chat.send("again"))
    assert change(database, _read_uses) == [("a", DIGEST), ("b", DIGEST)]
    face.settle(chats[0].redact(1))
    face.settle(chats[0].verify())
    face.settle(chats[1].erase())
    assert change(database, _read_uses) == [("a", DIGEST)]
    assert change(database, _read_prompts) == [("default", DIGEST)]
    face.settle(chats[1].send("new"))
    face.settle(chats[1].verify())
    for chat in chats:
        face.settle(chat.erase())
    assert (change(database, _read_uses), change(database, _read_prompts)) == ([], [])


@pytest.mark.once
def test_dry_run_counts_prompts_that_only_the_selected_conversations_use(face: Face, kit: Any, database: str) -> None:
    """Two conversations of a subject share a prompt, and another subject shares a second one with them."""
    for key, subject, used in (("a", "s", PROMPT), ("b", "s", PROMPT), ("c", "s", "shared"), ("d", "t", "shared")):
        face.settle(kit.chat(key, subject=subject, developer_prompt=used).send("hello"))
    tried = face.settle(kit.erase(subject="s", dry_run=True))
    assert tried.removed["prompt"] == 1
    assert face.settle(kit.erase(subject="s")).removed == tried.removed


@pytest.mark.once
def test_repeated_erase_deletes_a_prompt_that_a_killed_run_left(face: Face, kit: Any, database: str) -> None:
    """It has no use any more; the prompts of other conversations stay."""
    for key, used in (("a", PROMPT), ("b", "other")):
        face.settle(kit.chat(key, developer_prompt=used).send("hello"))
    face.settle(kit.chat("a").erase())
    row = {"tenant": "default", "digest": DIGEST, "body": PROMPT}
    change(database, lambda connection: connection.execute(prompt.insert(), row))
    assert face.settle(kit.chat("a").erase(dry_run=True)).removed == {"prompt": 1}
    assert face.settle(kit.chat("a").erase()).removed == {"prompt": 1}
    assert len(change(database, _read_prompts)) == 1


@pytest.mark.once
def test_verify_reports_a_missing_use(face: Face, kit: Any, database: str) -> None:
    """An erasure of another conversation could delete the prompt."""
    chat = kit.chat("k", developer_prompt=PROMPT)
    face.settle(chat.send("hello"))
    change(database, lambda connection: connection.execute(prompt_use.delete()))
    with pytest.raises(ChainBroken, match="uses the prompt") as caught:
        face.settle(chat.verify())
    assert caught.value.ref == f"prompt_use:{DIGEST.hex()}"


@pytest.mark.parametrize("length", [1, 12])
def test_erase_of_a_conversation_takes_three_transactions(
    database: str, server: LoopbackServer, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They erase, delete what is unused, and check. Pages of rows are read inside of them."""
    monkeypatch.setattr(sql, "_CALLS", sql._CALLS.limit(5))
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k", developer_prompt=PROMPT, subject="s")
        for number in range(length):
            chat.send(f"hello {number}")
        begun: list[bool] = []
        engine = kit._runtime._store.engine
        event.listen(
            engine, "begin", lambda connection: begun.append(bool(connection.get_execution_options().get(WRITE)))
        )
        receipt = chat.erase()
        assert receipt.removed["message"] == 2 * length
        assert receipt.removed["prompt"] == 1
        assert begun == [True, True, False]
