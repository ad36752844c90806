"""Test `redact`, `erase` and `purge`."""

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
def filled(cli: CommandLine, server: LoopbackServer) -> CommandLine:
    with Convokit(cli.database, model="m", base_url=server.url) as kit:
        for key in ("one", "two", "三"):
            kit.chat(key, subject="花子" if key != "two" else "taro").send(f"{WORDS} {key}")
    return cli


def test_erase_asks_first(filled: CommandLine) -> None:
    for given in ("n\n", ""):
        asked = filled("erase", "one", given=given, code=1)
        assert "erase one: 1 conversation, 2 messages" in asked.stderr
        assert "cannot be undone" in asked.stderr
        assert "rows" not in asked.stdout
    assert in_rows(filled.database, f"{WORDS} one")
    done = filled("erase", "one", "--reason", "asked for", given="y\n")
    assert in_rows(filled.database, f"{WORDS} one") == []
    for said in (
        "messages",
        "salts of digests",
        "reason:",
        "asked for",
        "whole",
        "removed from the database file and its log",
    ):
        assert said in done.stdout


def test_dry_run_only_counts(filled: CommandLine) -> None:
    found = filled.json("erase", "one", "--dry-run")
    assert (found["dry_run"], found["removed"]["message"], found["complete"]) == (True, 2, True)
    assert "to remove" in filled("erase", "--subject", "花子", "--dry-run").stdout
    assert in_rows(filled.database, f"{WORDS} one")


def test_erase_by_subject_keeps_other_subjects(filled: CommandLine) -> None:
    receipt = filled.json("erase", "--subject", "花子", "--yes", "--author", "受付")
    assert (receipt["conversations"], receipt["author"], receipt["chain"]) == (2, "受付", "whole")
    assert in_rows(filled.database, f"{WORDS} two")
    assert in_rows(filled.database, f"{WORDS} 三") == []
    assert "nothing left to remove" in filled("erase", "--subject", "花子", "--yes").stderr


def test_erase_and_purge_by_age(filled: CommandLine) -> None:
    then = round((datetime.now(UTC) - timedelta(days=91)).timestamp() * 1_000_000)

    def age(connection: Any) -> None:
        connection.execute(update(conversation).where(conversation.c.key == "two").values(updated_at=then))

    change(filled.database, age)
    assert filled.json("erase", "--older-than", "92d", "--yes")["conversations"] == 0
    assert filled.json("erase", "--older-than", "90d", "--yes")["conversations"] == 1
    assert filled.json("purge", "--older-than", "13w", "--yes")["conversations"] == 1
    assert "two" not in filled("ls").stdout


def test_redact_removes_one_message(filled: CommandLine) -> None:
    receipt = filled.json("redact", "三", "1", "--yes")
    assert receipt["removed"]["message"] == 1
    assert receipt["entries"] == 1
    assert filled("verify", "三").stdout.startswith("whole")
    assert "redacted" in filled("show", "三").stdout


def test_purge_asks_first(filled: CommandLine) -> None:
    filled("erase", "one", "--yes")
    asked = filled("purge", given="n\n", code=1)
    assert "delete all erased conversations: 1 conversation" in asked.stderr
    assert "conversations" in filled("purge", "--yes").stdout
    assert filled.mistake("show", "one").startswith("error: no conversation one")


def test_incomplete_removal_exits_with_1(filled: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of an older state keeps the removed text in the log."""
    monkeypatch.setattr(residue, "WAIT_S", 0.1)
    with closing(sqlite3.connect(str(make_url(filled.database).database), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convokit_message").fetchall()
        assert "run this again later" in filled("erase", "one", "--yes", code=1).stdout
    assert "removed from the database file" in filled("erase", "one", "--yes").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a conversation"),
        (("one", "--subject", "x"), "name a conversation"),
        (("--older-than", "soon"), "is not an age"),
        (("--older-than", "-3d"), "is not an age"),
    ],
)
def test_unclear_selection_exits_with_2(filled: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    assert said in " ".join(filled("erase", "--yes", *arguments, code=2).stderr.split())
    assert in_rows(filled.database, f"{WORDS} one")


def test_missing_conversation_or_message_is_one_line(filled: CommandLine) -> None:
    assert "no conversation nobody" in filled.mistake("erase", "nobody", "--yes")
    assert "no message 99" in filled.mistake("redact", "one", "99", "--yes")


@pytest.mark.parametrize("given", [("--yes",), ("--dry-run",), ("--yes", "--json"), ()])
def test_a_subject_without_conversations_is_said(filled: CommandLine, given: tuple[str, ...]) -> None:
    """An erase is repeated after a kill, so nothing to erase is no error unless `--expect-some` is given."""
    said = "all conversations of 誰か: no conversation matches, there "
    done = filled("erase", "--subject", "誰か", *given)
    assert said in done.stderr
    if "--json" in given:
        assert filled.json("erase", "--subject", "誰か", "--yes")["conversations"] == 0
    assert said in filled("erase", "--subject", "誰か", "--expect-some", *given, code=1).stderr
    assert "no conversation matches" not in filled("erase", "--subject", "花子", "--expect-some", "--yes").stderr
    assert said.replace("誰か", "花子") in filled("erase", "--subject", "花子", "--yes").stderr
