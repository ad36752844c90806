"""Test `keys create`, `keys ls` and `keys revoke`."""

from __future__ import annotations

import logging
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from convokit.cli.connect import DatabaseOption, read_database
from convokit.store.keys import ApiKeyRow, digest_key, find_key
from tests.cli.conftest import CommandLine


def _find(cli: CommandLine, api_key: str) -> ApiKeyRow | None:
    def find(connection: Connection) -> ApiKeyRow | None:
        return find_key(connection, digest_key(api_key))

    return read_database(DatabaseOption(cli.database), find)


def test_create_prints_the_key_alone_on_stdout(cli: CommandLine) -> None:
    """A script takes the key from stdout. The digest of the printed key is the stored one."""
    created = cli("keys", "create", "mobile")
    (api_key,) = created.stdout.splitlines()
    assert api_key.startswith("ck-")
    assert len(api_key) == 46
    assert "not shown again" in created.stderr
    assert api_key not in created.stderr
    row = _find(cli, api_key)
    assert row is not None
    assert (row.tenant, row.name, row.scopes) == ("default", "mobile", ("chat", "read"))
    assert (row.models, row.requests_per_minute, row.expires_at, row.revoked_at) == (None, None, None, None)


def test_create_stores_every_option(cli: CommandLine) -> None:
    options = ("--tenant", "会社", "--scope", "read", "-m", "大きい", "-m", "small", "-m", "small")
    found = cli.json("keys", "create", "鍵", *options, "--requests-per-minute", "60", "--expires", "90d")
    row = _find(cli, found["key"])
    assert row is not None
    assert (row.tenant, row.name, row.scopes, row.models) == ("会社", "鍵", ("read",), ("大きい", "small"))
    assert row.requests_per_minute == 60
    assert row.expires_at == row.created_at + timedelta(days=90) // timedelta(microseconds=1)
    ends = datetime.fromisoformat(found["expires_at"])
    assert ends - datetime.fromisoformat(found["created_at"]) == timedelta(days=90)
    dated = cli.json("keys", "create", "dated", "--expires", "2999-12-31")
    assert datetime.fromisoformat(dated["expires_at"]) == datetime(2999, 12, 31, tzinfo=UTC)


def test_a_key_is_nowhere_but_on_stdout(cli: CommandLine, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a log line nor the database file and its write-ahead log contain the key."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)  # logs statements with their parameters
    try:
        api_key = cli("keys", "create", "mobile").stdout.strip()
    finally:
        logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    assert api_key not in caplog.text
    assert api_key not in cli("keys", "ls").stdout + cli("keys", "ls", "--json").stdout
    file = Path(str(make_url(cli.database).database))
    for each in file.parent.glob(f"{file.name}*"):
        assert api_key.encode() not in each.read_bytes(), each


def test_a_name_that_the_tenant_has_is_an_error(cli: CommandLine) -> None:
    """Another tenant may use the same name. A revoked key keeps its name."""
    cli("keys", "create", "鍵")
    cli("keys", "create", "鍵", "--tenant", "acme")
    for _ in range(2):
        said = cli.mistake("keys", "create", "鍵")
        assert "tenant 'default' has a key '鍵' already: choose another name" in said
        cli("keys", "revoke", "鍵")
    assert "keys ls --tenant acme`" in cli.mistake("keys", "create", "鍵", "--tenant", "acme")
    assert [each["tenant"] for each in cli.json("keys", "ls", "--all-tenants")["keys"]] == ["default", "acme"]


def test_ls_shows_the_keys_of_a_tenant(cli: CommandLine) -> None:
    assert cli("keys", "ls").stdout == ""
    assert "no API keys of tenant default yet" in cli("keys", "ls").stderr
    assert cli.json("keys", "ls") == {"keys": []}
    cli("keys", "create", "モバイル", "--model", "大きい", "--requests-per-minute", "1200")
    cli("keys", "create", "other", "--tenant", "acme", "--scope", "chat", "--expires", "1y")
    lines = cli("keys", "ls").stdout.splitlines()
    assert lines[0].split() == ["name", "state", "created", "per", "minute", "scopes", "models"]
    assert lines[1].split()[0:2] == ["モバイル", "active"]
    assert lines[1].split()[4:] == ["1,200", "chat", "read", "大きい"]
    shown = cli("keys", "ls", "--all-tenants").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["tenant", "default", "acme"]
    (found,) = cli.json("keys", "ls", "--tenant", "acme")["keys"]
    assert (found["name"], found["scopes"], found["state"]) == ("other", ["chat"], "active")
    assert "key" not in found


def test_ls_marks_expired_keys(cli: CommandLine) -> None:
    cli("keys", "create", "a", "--expires", "12h")
    file = sqlite3.connect(str(make_url(cli.database).database))
    with file:
        file.execute("UPDATE convokit_key SET expires_at = created_at")
    file.close()
    assert cli("keys", "ls").stdout.splitlines()[1].split()[1] == "expired"
    assert cli.json("keys", "ls")["keys"][0]["state"] == "expired"


def test_revoke_ends_a_key_once(cli: CommandLine) -> None:
    api_key = cli("keys", "create", "鍵").stdout.strip()
    assert cli("keys", "revoke", "鍵").stderr == "鍵 is revoked\n"
    row = _find(cli, api_key)
    assert row is not None
    assert row.revoked_at is not None
    assert "鍵 was revoked already" in cli("keys", "revoke", "鍵").stderr
    assert _find(cli, api_key) == row
    found = cli.json("keys", "revoke", "鍵")
    assert (found["state"], datetime.fromisoformat(found["revoked_at"]).year > 2025) == ("revoked", True)
    assert cli("keys", "ls").stdout.splitlines()[1].split()[1] == "revoked"


def test_revoke_of_an_unknown_name_is_an_error(cli: CommandLine) -> None:
    """The key of another tenant has another name for this tenant."""
    cli("keys", "create", "a", "--tenant", "acme")
    assert "no key a" in cli.mistake("keys", "revoke", "a")
    assert "keys ls --all-tenants`" in cli.mistake("keys", "revoke", "a")
    assert cli.json("keys", "ls", "--tenant", "acme")["keys"][0]["state"] == "active"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--expires", "soon"), "'soon'"),
        (("--expires", "99999y"), "--expires takes"),
        (("--expires", "2020-01-31"), "is over already"),
        (("--scope", "write"), "'write'"),
        (("--requests-per-minute", "0"), "--requests-per-minute"),
    ],
)
def test_bad_options_are_refused(cli: CommandLine, arguments: tuple[str, ...], problem: str) -> None:
    assert problem in cli("keys", "create", "a", *arguments, code=2).stderr
    assert cli.json("keys", "ls") == {"keys": []}


@pytest.mark.parametrize("arguments", [("",), ("a", "--tenant", ""), ("a", "--model", ""), ("a\udcff",), ("a" * 513,)])
def test_bad_names_are_refused(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    cli.mistake("keys", "create", *arguments)
    assert cli.json("keys", "ls", "--all-tenants") == {"keys": []}


def test_commands_need_tables(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    for command in (("create", "a"), ("ls",), ("revoke", "a")):
        assert "`convokit db upgrade`" in cli.mistake("keys", *command, "-d", "empty.db")


def test_key_commands_work_on_postgresql(cli: CommandLine, request: pytest.FixtureRequest) -> None:
    postgres = request.getfixturevalue("postgres")
    url = postgres.migrated()
    cli("keys", "create", "鍵", "-d", url)
    assert "has a key '鍵' already" in cli.mistake("keys", "create", "鍵", "-d", url)
    cli("keys", "revoke", "鍵", "-d", url)
    assert cli("keys", "ls", "-d", url).stdout.splitlines()[1].split()[:2] == ["鍵", "revoked"]
    postgres.release(url)
