"""`redact`, `erase` and `purge`: they ask first, say what they did, and fail when something is left to do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.engine import make_url

from convokit import Convokit
from convokit.erasure import residue
from convokit.store.schema import conversation
from tests.cli.conftest import CommandLine
from tests.support.canaries import change, in_rows
from tests.support.server import LoopbackServer

WORDS = "canary: 私の病歴"


@pytest.fixture
def talked(cli: CommandLine, server: LoopbackServer) -> CommandLine:
    with Convokit(cli.database, model="m", base_url=server.url) as kit:
        for key in ("one", "two", "三"):
            kit.chat(key, subject="花子" if key != "two" else "taro").send(f"{WORDS} {key}")
    return cli


def test_it_asks_before_it_erases(talked: CommandLine) -> None:
    """What would go is said first; no, or no answer at all, removes nothing and exits with 1."""
    for given in ("n\n", ""):
        asked = talked("erase", "one", given=given, code=1)
        assert "erase one: 1 conversation, 2 messages" in asked.stderr
        assert "cannot be undone" in asked.stderr
        assert "rows" not in asked.stdout
    assert in_rows(talked.database, f"{WORDS} one")
    done = talked("erase", "one", "--reason", "asked for", given="y\n")
    assert in_rows(talked.database, f"{WORDS} one") == []
    for said in ("messages", "salts of digests", "why:", "asked for", "whole", "gone from the file and its log"):
        assert said in done.stdout


def test_a_dry_run_only_counts(talked: CommandLine) -> None:
    """It asks nothing, prints the counts, and everything is still there."""
    found = talked.json("erase", "one", "--dry-run")
    assert (found["dry_run"], found["removed"]["message"], found["complete"]) == (True, 2, True)
    assert "would go" in talked("erase", "--subject", "花子", "--dry-run").stdout
    assert in_rows(talked.database, f"{WORDS} one")


def test_a_persons_conversations(talked: CommandLine) -> None:
    """--subject erases that person's conversations and nobody else's; again, there is nothing left."""
    receipt = talked.json("erase", "--subject", "花子", "--yes", "--author", "受付")
    assert (receipt["conversations"], receipt["author"], receipt["chain"]) == (2, "受付", "whole")
    assert in_rows(talked.database, f"{WORDS} two")
    assert in_rows(talked.database, f"{WORDS} 三") == []
    assert "nothing left to remove" in talked("erase", "--subject", "花子", "--yes").stderr


def test_retention_by_age(talked: CommandLine) -> None:
    """--older-than erases what was not used for so long."""
    then = round((datetime.now(UTC) - timedelta(days=91)).timestamp() * 1_000_000)

    def age(connection: Any) -> None:
        connection.execute(update(conversation).where(conversation.c.key == "two").values(updated_at=then))

    change(talked.database, age)
    assert talked.json("erase", "--older-than", "92d", "--yes")["conversations"] == 0
    assert talked.json("erase", "--older-than", "90d", "--yes")["conversations"] == 1
    assert talked.json("purge", "--older-than", "13w", "--yes")["conversations"] == 1
    assert "two" not in talked("ls").stdout


def test_one_message(talked: CommandLine) -> None:
    """redact removes one message; show says so."""
    receipt = talked.json("redact", "三", "1", "--yes")
    assert receipt["removed"]["message"] == 1
    assert receipt["entries"] == 1
    assert talked("verify", "三").stdout.startswith("whole")
    assert "redacted" in talked("show", "三").stdout


def test_purge_asks_too(talked: CommandLine) -> None:
    """It deletes what was erased, and says how many conversations."""
    talked("erase", "one", "--yes")
    asked = talked("purge", given="n\n", code=1)
    assert "delete all erased conversations: 1 conversation" in asked.stderr
    assert "conversations" in talked("purge", "--yes").stdout
    assert talked.mistake("show", "one").startswith("error: no conversation one")


def test_what_is_left_to_do_is_a_failure(talked: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody reads an older state of the file, the exit code is 1 and the receipt says what to do."""
    monkeypatch.setattr(residue, "WAIT_S", 0.1)
    with closing(sqlite3.connect(str(make_url(talked.database).database), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convokit_message").fetchall()
        assert "run it again later" in talked("erase", "one", "--yes", code=1).stdout
    assert "gone from the file" in talked("erase", "one", "--yes").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a conversation"),
        (("one", "--subject", "x"), "name a conversation"),
        (("--older-than", "soon"), "is not an age"),
        (("--older-than", "-3d"), "is not an age"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(talked: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    """Nothing named, two things named, an age that is none: exit code 2, and nothing is removed."""
    assert said in " ".join(talked("erase", "--yes", *arguments, code=2).stderr.split())
    assert in_rows(talked.database, f"{WORDS} one")


def test_what_is_not_there(talked: CommandLine) -> None:
    """No such conversation, no such message: one line, exit code 1."""
    assert "no conversation nobody" in talked.mistake("erase", "nobody", "--yes")
    assert "no message 99" in talked.mistake("redact", "one", "99", "--yes")
