"""Test `verify` and `audit checkpoint`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, update

from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import branch, conversation, message
from tests.cli.conftest import CommandLine

SECRET = "the auditor's own 秘密\n"


@pytest.fixture
def key(tmp_path: Path) -> str:
    """Return the path of a file with a secret."""
    path = tmp_path / "secret"
    path.write_text(SECRET, "utf-8")
    return str(path)


def _change(cli: CommandLine, statement: Any) -> None:
    engine = open_engine(parse_database_url(cli.database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(statement)
    engine.dispose()


def test_verify_all_reports_every_broken_conversation(cli: CommandLine) -> None:
    """The command prints counts, `--json` prints every problem, and a broken chain exits with 1."""
    assert cli("verify", "--all").stdout == "whole: 0 conversations, 0 entries, 0 rows; messages on no branch: 0\n"
    cli.chat("--key", "one", "hello")
    cli.chat("--key", "二つ目", "こんにちは")
    assert cli("verify", "--all").stdout == "whole: 2 conversations, 6 entries, 6 rows; messages on no branch: 0\n"
    counts = {"conversations": 2, "entries": 6, "rows": 6, "unreachable_messages": 0}
    assert cli.json("verify", "--all") == {"ok": True, **counts, "moved_heads": [], "broken": []}
    _change(cli, update(message).where(message.c.content == "hello").values(content="x\x1b[31m"))
    lines = cli("verify", "--all", code=1).stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("(1): message 1 is not what was written")
    assert lines[1] == "1 broken: 2 conversations, 3 entries, 3 rows; messages on no branch: 0"
    found = cli.json("verify", "--all", code=1)
    assert (found["ok"], [each["ref"] for each in found["broken"]]) == (False, ["1"])


def test_verify_against_a_checkpoint_finds_a_deleted_conversation(cli: CommandLine, key: str, tmp_path: Path) -> None:
    """A checkpoint in a file and one on stdout hold the same entries."""
    cli.chat("--key", "one", "hello")
    cli.chat("--key", "two", "hello")
    path = str(tmp_path / "heads.jsonl")
    said = cli("audit", "checkpoint", "--key-file", key, "-o", path)
    assert said.stdout == ""
    assert "2 conversations, 6 entries" in said.stderr
    printed = cli("audit", "checkpoint", "--key-file", key).stdout.splitlines()
    assert [json.loads(line) for line in printed[1:-1]] == [
        json.loads(line) for line in Path(path).read_text("utf-8").splitlines()[1:-1]
    ]
    held = ("--against", path, "--key-file", key)
    assert cli("verify", "one", *held).stdout.startswith("whole: 3 entries")
    assert cli.json("verify", "--all", *held)["conversations"] == 2
    _change(cli, delete(conversation).where(conversation.c.key == "two"))
    assert "is missing: the checkpoint of" in cli("verify", "--all", *held, code=1).stdout
    assert cli("verify", "--all").stdout.startswith("whole: 1 conversations")


def test_verify_shows_heads_and_those_that_moved_since_a_checkpoint(cli: CommandLine, key: str, tmp_path: Path) -> None:
    """A line has the heads and the number of messages on no branch. Moved heads are named, and the exit code stays 0."""
    for text in ("hello", "and then?"):
        cli.chat("--key", "二つ目", text)
    held = ("--against", str(tmp_path / "heads.jsonl"), "--key-file", key)
    cli("audit", "checkpoint", "--key-file", key, "-o", held[1])
    assert cli("verify", "二つ目").stdout.splitlines()[1:] == ["heads: main at message 4; messages on no branch: 0"]
    _change(cli, update(conversation).values(head_seq=2))
    moved = "main was at message 4 in the checkpoint, and is at message 2"
    lines = cli("verify", "二つ目", *held).stdout.splitlines()
    assert lines[1:] == ["heads: main at message 2; messages on no branch: 2", f"moved: {moved}"]
    assert cli("verify", "--all", *held).stdout.splitlines() == [
        f"moved: 二つ目: {moved}",
        "whole: 1 conversations, 6 entries, 6 rows; messages on no branch: 2",
    ]
    one, every = cli.json("verify", "二つ目", *held), cli.json("verify", "--all", *held)
    assert (one["ok"], one["heads"], one["unreachable_messages"]) == (True, {"main": 2}, 2)
    assert (every["ok"], every["unreachable_messages"]) == (True, 2)
    assert every["moved_heads"] == [{**one["moved_heads"][0], "key": "二つ目"}]
    assert (one["moved_heads"][0]["checkpoint_seq"], one["moved_heads"][0]["seq"]) == (4, 2)
    _change(cli, update(conversation).values(head_seq=None))
    rows = [
        {"conversation_id": UUID(one["conversation_id"]), "number": number, "head_seq": 4} for number in range(1, 10)
    ]
    _change(cli, insert(branch).values([{**row, "created_at": 1} for row in rows]))
    lines = cli("verify", "二つ目", *held).stdout.splitlines()
    assert lines[1].startswith("heads: main is empty, branch 1 at message 4, branch 2 ")
    assert lines[1].endswith("branch 7 at message 4, 2 more; messages on no branch: 0")
    assert lines[2] == "moved: main was at message 4 in the checkpoint, and is empty or missing"


def test_checkpoint_of_a_tenant_with_a_japanese_name_is_ascii(cli: CommandLine, key: str, tmp_path: Path) -> None:
    """The checkpoint survives a terminal without Japanese characters."""
    cli.chat("--key", "k", "hello", "--tenant", "株式会社")
    printed = cli("audit", "checkpoint", "--key-file", key, "--tenant", "株式会社").stdout
    assert printed.isascii()
    path = tmp_path / "c"
    path.write_text(printed, "utf-8")
    cli("verify", "--all", "--against", str(path), "--key-file", key, "--tenant", "株式会社")
    said = cli.mistake("verify", "--all", "--against", str(path), "--key-file", key)
    assert "belongs to another tenant" in said


def test_verify_and_checkpoint_mistakes_are_one_line(cli: CommandLine, key: str, tmp_path: Path) -> None:
    """Wrong keys, altered checkpoints and conflicting options are reported."""
    cli.chat("--key", "k", "hello")
    path = tmp_path / "c"
    cli("audit", "checkpoint", "--key-file", key, "-o", str(path))
    short = tmp_path / "short"
    short.write_text("short\n")
    assert "at least 16 bytes" in cli.mistake("audit", "checkpoint", "--key-file", str(short))
    assert "cannot read" in cli.mistake("audit", "checkpoint", "--key-file", str(tmp_path / "none"))
    assert "cannot read" in cli.mistake("audit", "checkpoint", "--key-file", str(tmp_path))
    assert "cannot be written" in cli.mistake(
        "audit", "checkpoint", "--key-file", key, "-o", str(tmp_path / "no" / "c")
    )
    other = tmp_path / "other"
    other.write_text(SECRET + "!")
    assert "another key" in cli.mistake("verify", "k", "--against", str(path), "--key-file", str(other))
    path.write_text(path.read_text().replace('"entries":', '"entries":1'))
    assert "its signature does not match" in cli.mistake("verify", "k", "--against", str(path), "--key-file", key)
    assert "not a checkpoint" in cli.mistake("verify", "k", "--against", key, "--key-file", key)
    for wrong in (("k", "--all"), ("k", "--against", str(path)), ("k", "--key-file", key)):
        cli("verify", *wrong, code=2)


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_checkpoint_warns_of_a_readable_key(cli: CommandLine, tmp_path: Path) -> None:
    """The command also warns of a list of heads that was there, and whose mode it kept."""
    key, heads = tmp_path / "key", tmp_path / "heads.jsonl"
    key.write_text(SECRET, "utf-8")
    arguments = ("audit", "checkpoint", "--key-file", str(key), "-o", str(heads))
    key.chmod(0o600)
    assert "warning" not in cli(*arguments).stderr
    key.chmod(0o644)
    assert f"warning: every user of this machine can read {key}: run `chmod 600 {key}`" in cli(*arguments).stderr
    heads.chmod(0o644)
    assert f"can read {heads}" in cli(*arguments).stderr
