"""Tests of commands on a database that can only be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from convokit import Convokit
from tests.cli.conftest import CommandLine
from tests.support.databases import Postgres
from tests.support.server import LoopbackServer

KEY = "0123456789abcdef"
READING = (
    ("ls",),
    ("show",),
    ("show", "--tree"),
    ("search", "hello"),
    ("verify",),
    ("verify", "--all"),
    ("usage",),
    ("usage", "--by", "conversation"),
    ("replay",),
    ("diff", "a"),
    ("context", "a"),
    ("export", "a"),
    ("audit", "checkpoint", "--key-file", "key", "-o", "list"),
    ("erase", "a", "--dry-run"),
    ("import", "export.jsonl", "--dry-run"),
    ("db", "current"),
    ("db", "check"),
    ("keys", "ls"),
    ("keys", "ls", "--all-tenants"),
)


@pytest.fixture
def closed(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line on a file whose folder cannot be written, as far as convokit can see."""
    cli.chat("--key", "a", "hello")
    cli.chat("--key", "a", "more")
    with Convokit(cli.database, model="m") as kit:
        kit.export("export.jsonl")
    Path("key").write_text(KEY, "utf-8")
    monkeypatch.setattr("convokit.store.dialects.sqlite_files._is_allowed", lambda path, mode: False)
    return cli


def test_commands_that_read_work_on_a_read_only_file(closed: CommandLine) -> None:
    """No log is created beside the file, so the file was opened as immutable."""
    file = Path(str(make_url(closed.database).database))
    before = file.read_bytes()
    for arguments in READING:
        closed(*arguments)
        assert file.read_bytes() == before, arguments
        assert not list(file.parent.glob(f"{file.name}-*")), arguments


def test_doctor_names_a_file_that_cannot_be_written(closed: CommandLine) -> None:
    """The settings of a connection that writes are left out: there is none."""
    checks = {each["name"]: each for each in closed.json("doctor")["checks"]}
    assert checks["writing"]["status"] == "warn"
    assert "read_only=True" in checks["writing"]["do"]
    assert "settings" not in checks
    assert checks["revision"]["status"] == "ok"


def test_doctor_says_nothing_of_a_file_that_can_be_written(cli: CommandLine) -> None:
    names = [each["name"] for each in cli.json("doctor")["checks"]]
    assert "writing" not in names
    assert "settings" in names


def test_a_server_that_only_reads_is_named(
    cli: CommandLine, postgres: Postgres, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby refuses as this server does. Commands that read work, and `chat` sends nothing to the model."""
    url = postgres.migrated()
    with Convokit(url, model="m", base_url=server.url) as kit:
        kit.chat("a").send("hello")
    refusing = make_url(url).update_query_dict({"options": "-cdefault_transaction_read_only=on"})
    cli.database = refusing.render_as_string(hide_password=False)
    assert "hello" in cli("show", "a").stdout
    checks = {each["name"]: each for each in cli.json("doctor")["checks"]}
    assert (checks["writing"]["status"], checks["server"]["status"]) == ("warn", "ok")
    calls = len(server.requests)
    monkeypatch.setattr("convokit.completion.begin.START_S", 0.1)
    error = cli.mistake("chat", "--model", "m", "--base-url", server.url, "--key", "a", "more")
    assert "25006" in error
    assert len(server.requests) == calls
    postgres.release(url)
