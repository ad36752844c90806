"""Tests that a database URL works as hosts write it, and that an unknown option of it is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from convokit.errors import ConvokitError, SettingsError, StoreUnavailable
from convokit.store.dialects import find_dialect
from convokit.store.dialects.postgresql_hosts import add_failover_options
from convokit.store.engine import describe_url, parse_database_url
from tests.support.databases import Postgres
from tests.support.faces import Face
from tests.support.server import LoopbackServer


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    made = postgres.migrated()
    yield made
    postgres.release(made)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgres+psycopg2"])
def test_every_scheme_of_postgresql_is_accepted(face: Face, url: str, server: LoopbackServer, scheme: str) -> None:
    """The driver in a URL is that of another library, and hosts write `postgres://`."""
    given = make_url(url).set(drivername=scheme).update_query_dict({"application_name": "試験"})
    kit = face.kit(given.render_as_string(hide_password=False), model="m", base_url=server.url)
    assert face.settle(kit.chat("a").send("hello")).text == "echo: hello"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("pgbouncer", "true", "leave it out"),
        ("schema", "public", "csearch_path"),
        ("ssl", "require", "sslmode=require"),
        ("sslmod", "require", "did you mean sslmode"),
        ("autocommit", "true", "leave it out"),
        ("row_factory", "x", "leave it out"),
        ("prepare_threshold", "0", "pgbouncer"),
        ("plugin", "x", "leave it out"),
        ("設定", "x", "leave it out"),
    ],
)
def test_an_unknown_option_is_named(face: Face, name: str, value: str, advice: str) -> None:
    """An option of another driver or program is a SettingsError before anything connects."""
    url = make_url("postgresql://u:secret@127.0.0.1:9/d").update_query_dict({name: value})
    with pytest.raises(SettingsError) as caught:
        face.settle(face.kit(url.render_as_string(hide_password=False), model="m").conversations())
    assert caught.value.setting == "database"
    assert repr(name) in str(caught.value)
    assert advice in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=wrong",
        "sslmode=require&sslmode=disable",
        "connect_timeout=soon",
        "service=missing",
        "sslmode=verify-full&sslrootcert=/missing",
        "options=-cwrong%3D1",
        "passfile=/missing",
        "client_encoding=KLINGON",
        "hostaddr=nowhere",
        "port=x",
    ],
)
def test_a_wrong_value_of_an_option_is_a_typed_error(
    face: Face, url: str, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """Whatever the driver or the server says about a value, the caller gets an error of convokit."""
    monkeypatch.setattr("convokit.completion.effects.READ_WAITS_S", ())
    kit = None
    with contextlib.suppress(ConvokitError):
        kit = face.kit(f"{url}{'&' if '?' in url else '?'}{query}", model="m")
        face.settle(kit.conversations())


@pytest.mark.parametrize(
    ("name", "value"),
    [("PGSSLMODE", "wrong"), ("PGCONNECT_TIMEOUT", "soon"), ("PGSERVICE", "missing"), ("PGPORT", "x")],
)
def test_a_wrong_variable_of_postgresql_is_a_typed_error(
    face: Face, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setattr("convokit.completion.effects.READ_WAITS_S", ())
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnavailable, match="cannot be"):
        face.settle(face.kit("postgresql://u:secret@127.0.0.1/d", model="m").conversations())


@pytest.mark.once
@pytest.mark.parametrize(
    ("url", "host", "port", "name"),
    [
        ("postgresql://u:secret@h1:1,h2:2/d?application_name=x", "h1,h2", "1,2", "h1:1, h2:2"),
        ("postgres://u:p,secret@h1,h2:2/d", "h1,h2", ",2", "h1, h2:2"),
        ("postgresql://u:p/x,secret@h1,h2/d", "h1,h2", ",", "h1, h2"),
        ("postgresql:///d?host=h1,h2&port=1,2&user=u&password=secret", "h1,h2", "1,2", "h1:1, h2:2"),
        ("postgresql:///d?host=h1,h2&port=1", "h1,h2", "1,1", "h1:1, h2:1"),
        ("postgresql:///d?host=h1:1&host=h2:2", "h1,h2", "1,2", "h1:1, h2:2"),
        ("postgresql+asyncpg://[::1]:1,[fe80::2]/d", "::1,fe80::2", "1,", "[::1]:1, fe80::2"),
        ("postgresql://%2Fvar%2Frun,データ:2/d", "/var/run,データ", ",2", "/var/run, データ:2"),
    ],
)
def test_a_url_names_several_servers(url: str, host: str, port: str, name: str) -> None:
    """The driver gets them as libpq takes them. People get their names, without secrets."""
    parsed = parse_database_url(url)
    find_dialect("postgresql").check_url(parsed)
    connecting = add_failover_options(parsed, read_only=False)
    options = connecting.get_dialect()().create_connect_args(connecting)[1]
    assert (options["host"], options["port"], options["dbname"]) == (host, port, "d")
    assert (options["target_session_attrs"], options["connect_timeout"]) == ("read-write", "3")
    assert describe_url(parsed) == f"PostgreSQL database d at {name}"


@pytest.mark.once
def test_options_for_several_servers_are_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kit that reads takes any server. One server gets no options. The URL and the variables of libpq come first."""

    def add(url: str, *, read_only: bool = False) -> dict[str, object]:
        return dict(add_failover_options(parse_database_url(url), read_only=read_only).query)

    assert "target_session_attrs" not in add("postgresql://h1,h2/d", read_only=True)
    assert add("postgresql://h1/d") == {}
    given = add("postgresql://h1,h2/d?target_session_attrs=any&connect_timeout=9")
    assert (given["target_session_attrs"], given["connect_timeout"]) == ("any", "9")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "primary")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert set(add("postgresql://h1,h2/d")) == {"host"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://u:secret@h1:p1,h2/d", "server 1 of the URL is not HOST or HOST:PORT"),
        ("postgresql://u:secret@h1,,h2/d", "server 2 of the URL is not HOST"),
        ("postgresql://u:secret@h1,h2,/d", "server 3 of the URL is not HOST"),
        ("postgresql://u:secret@::1,h2/d", "an IPv6 address stands in brackets"),
        ("postgresql://u:secret@h1,h2:70000/d", "server 2 of the URL has a port that is not 1 to 65535"),
        ("postgresql://u:secret@h1,h2/d?host=h3", "has the option 'host' too: keep one"),
        ("postgresql://u:secret@/d?host=h1,h2&port=1,2,3", "its hosts and ports cannot be used"),
        ("postgresql://u:secret@h1,h2/d?target_session_attrs=master", "'master': use one of any, read-write"),
        ("postgresql://u:secret,secret/d", "server 1 of the URL is not HOST"),
    ],
)
def test_a_wrong_list_of_servers_is_named(face: Face, url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        face.settle(face.kit(url, model="m").conversations())
    assert caught.value.setting == "database"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "name", "advice"),
    [
        ("mode=ro&uri=true", "mode", "read_only=True"),
        ("uri=true", "uri", "read_only=True"),
        ("immutable=1", "immutable", "read_only=True"),
        ("timeout=5", "timeout", "leave it out"),
        ("設定=1", "設定", "leave it out"),
    ],
)
@pytest.mark.once
def test_an_option_of_a_sqlite_url_is_refused(face: Face, sqlite_file: str, query: str, name: str, advice: str) -> None:
    """`mode=ro` was ignored once, and the kit wrote to a file that the caller wanted to read."""
    with pytest.raises(SettingsError, match=advice) as caught:
        face.kit(f"{sqlite_file}?{query}", model="m")
    assert caught.value.setting == "database"
    assert repr(name) in str(caught.value)


@pytest.mark.once
def test_a_path_may_contain_a_question_mark(face: Face, tmp_path: Path) -> None:
    """Only a URL has options. A path is the name of a file."""
    kit = face.kit(str(tmp_path / "a?mode=ro.db"), model="m")
    face.settle(kit.migrate())
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".db"] == ["a?mode=ro.db"]
