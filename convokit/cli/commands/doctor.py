"""Define `convokit doctor`: check the installation, the database and the environment.

The command changes nothing, calls no server and prints no key.
"""

from __future__ import annotations

import platform
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

import typer
from rich.text import Text
from sqlalchemy import Connection

from convokit._files import is_readable_by_others
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit, read_database
from convokit.cli.invocation import format_command
from convokit.domain.profiles import DEFAULT_BASE_URL, resolve_profile
from convokit.domain.removal import VACUUM_COMMAND
from convokit.domain.vocabularies import NEAR, find_vocabulary
from convokit.errors import ConvokitError
from convokit.settings import Environment
from convokit.store import distribution, migrations, turns
from convokit.store.dialects import dialect_of, dialect_of_url, read_clock_us
from convokit.store.dialects.protocol import DatabaseFacts
from convokit.store.dialects.sqlite import has_wal_reset_bug
from convokit.store.engine import describe_url
from convokit.store.schema import REVISION
from convokit.tokens.counter import choose_text_counter, is_estimate

Status = Literal["ok", "warn", "fail"]
_STATUS_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_EXTRAS = {
    "postgres": ("psycopg",),
    "tokens": ("splintr",),
    "prices": ("genai_prices",),
    "local": ("xllamacpp",),
    "otel": ("opentelemetry",),
}
_INSTALL_TOKENS = "`pip install 'convokit-sql[tokens]'`"
_MAX_SKEW_S = 5.0
_OLD_TURN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its result, and the advice unless all is well. The fields are keys of `--json`."""

    name: str
    status: Status
    found: str
    do: str = ""


def doctor(
    *, json: shared_options.Json = False, database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE
) -> None:
    """Check the installation, the database and the environment.

    Exits with 1 if a check fails.
    """
    checks = [*_check_installation(), *_check_database(DatabaseOption(database)), *_check_environment()]
    has_failed = any(check.status == "fail" for check in checks)
    if json:
        output.print_json({"ok": not has_failed, "checks": [asdict(check) for check in checks]})
    else:
        _print(checks)
    if has_failed:
        raise typer.Exit(1)


def _print(checks: list[Check]) -> None:
    console = output.get_console()
    table = output.make_table("check", "", "found", cut=("found",))
    for check in checks:
        table.add_row(
            check.name, Text(check.status, style=_STATUS_STYLES[check.status]), output.to_one_line(check.found)
        )
    console.print(table)
    for check in checks:
        if check.do:
            console.print()
            output.print_wrapped(console, Text.assemble((check.name, _STATUS_STYLES[check.status]), f": {check.do}"))


def _check_installation() -> Iterator[Check]:
    yield Check("Python", "ok", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Check("convokit-sql", "ok", metadata.version("convokit-sql"))
    yield _check_namesake()
    extras = [name if all(map(find_spec, modules)) else f"{name} (not installed)" for name, modules in _EXTRAS.items()]
    yield Check("extras", "ok", ", ".join(["cli", *extras]))
    yield check_sqlite(sqlite3.sqlite_version_info)


def _check_namesake() -> Check:
    # Another project owns the distribution name `convokit`, and installs a package of that name too.
    try:
        version = metadata.version("convokit")
    except metadata.PackageNotFoundError:
        return Check("namesake", "ok", "no other package named convokit")
    advice = "convokit-sql and convokit both install a package named convokit: use a separate environment for each"
    return Check("namesake", "fail", f"convokit {version} is installed here too", advice)


def check_sqlite(version: tuple[int, int, int]) -> Check:
    """Warn of a SQLite version with the WAL-reset bug."""
    name = ".".join(map(str, version))
    if has_wal_reset_bug(version):
        advice = "concurrent connections may lose a commit (WAL-reset bug): use SQLite 3.51.3, 3.50.7 or 3.44.6"
        return Check("SQLite", "warn", name, advice)
    return Check("SQLite", "ok", name)


def _check_database(database: DatabaseOption) -> Iterator[Check]:
    name = describe_url(database.url)
    if database.is_new_file:
        advice = f"`{format_command('db', 'upgrade')}` and `{format_command('chat')}` create it"
        yield Check("database", "warn", f"{name} does not exist yet", advice)
        return
    try:
        revision = read_database(database, migrations.read_revision)
    except ConvokitError as error:
        yield Check("database", "fail", str(error), "check --database (or CONVOKIT_DATABASE_URL)")
        return
    yield Check("database", "ok", name)
    if (file := dialect_of_url(database.url).file_of_url(database.url)) is not None:
        yield _check_access(file)
    else:
        yield Check("erased text", "ok", f"stays in the server's files until `{VACUUM_COMMAND}`")
    is_file = dialect_of_url(database.url).file_of_url(database.url) is not None
    is_writable = _read_is_writable(database, is_file=is_file)
    if not is_writable:
        advice = "only commands that read work; open it with `read_only=True` in programs"
        if not is_file:
            advice += ", or connect to the primary"
        yield Check("writing", "warn", "not allowed: the database is read-only", advice)
    if is_writable or not is_file:  # a connection that only reads has other settings than one that writes
        yield _run_check(database, dialect_of_url(database.url).facts_name, _check_facts, read_only=not is_file)
    if not is_file:
        yield from _check_replication(database, is_writable=is_writable)
        yield from _check_cluster(database, is_writable=is_writable)
    yield _run_check(database, "clock", _check_clock)
    if revision == REVISION:
        yield Check("revision", "ok", revision)
        yield _run_check(database, "open turns", _check_open_turns)
    else:
        yield _run_check(database, "revision", lambda connection: _check_other_revision(connection, name, revision))


def _read_is_writable(database: DatabaseOption, *, is_file: bool) -> bool:
    """Return whether the database can be written; True too if it cannot be read, which another check reports."""
    try:
        # A server reports a read-only transaction as read-only.
        return read_database(database, lambda each: dialect_of(each).is_writable(each), read_only=is_file)
    except ConvokitError:
        return True


def _run_check(
    database: DatabaseOption, name: str, check: Callable[[Connection], Check], *, read_only: bool = True
) -> Check:
    """Return the check's result; an error of the database is its failure."""
    try:
        return read_database(database, check, read_only=read_only)
    except ConvokitError as error:
        return Check(name, "fail", str(error))


def _check_access(file: str) -> Check:
    """Warn of a database file, write-ahead log or index of the log that every user of this machine can read."""
    readable = [path for path in (file, f"{file}-wal", f"{file}-shm") if is_readable_by_others(path)]
    if not readable:
        return Check("file access", "ok", "not readable by every user of this machine")
    found = f"every user of this machine can read {', '.join(readable)}"
    return Check("file access", "warn", found, f"`chmod 600 {shlex.join(readable)}`, or `chmod 660` for a group")


def _check_facts(connection: Connection) -> Check:
    dialect = dialect_of(connection)
    facts = dialect.read_facts(connection)
    return Check(dialect.facts_name, "ok" if facts.advice is None else "fail", facts.found, facts.advice or "")


def _check_replication(database: DatabaseOption, *, is_writable: bool) -> Iterator[Check]:
    """Say whether the server is a primary or a standby, and what a failover may lose. Several servers: of the primary."""

    def read(connection: Connection) -> Mapping[str, DatabaseFacts]:
        return dialect_of(connection).read_replication(connection)

    try:
        found = read_database(database, read, read_only=not is_writable)
    except ConvokitError as error:
        yield Check("replication", "fail", str(error))
        return
    for name, facts in found.items():
        yield Check(name, "ok" if facts.advice is None else "warn", facts.found, facts.advice or "")


def _check_cluster(database: DatabaseOption, *, is_writable: bool) -> Iterator[Check]:
    """Say how the tables are distributed. Nothing for a database without Citus."""
    try:
        facts = read_database(database, distribution.describe_cluster, read_only=not is_writable)
    except ConvokitError as error:
        yield Check("cluster", "fail", str(error))
        return
    if facts is not None:
        yield Check("cluster", "ok" if facts.advice is None else "warn", facts.found, facts.advice or "")


def _check_clock(connection: Connection) -> Check:
    before_s = time.time()
    database_s = read_clock_us(connection) / 1_000_000
    skew_s = database_s - (before_s + time.time()) / 2
    shown = f"{abs(skew_s):.3f} s {'ahead of' if skew_s > 0 else 'behind'} the clock of this machine"
    if abs(skew_s) > _MAX_SKEW_S:
        advice = "times that convokit shows may be off; leases are safe, because they use the database's clock only"
        return Check("clock", "warn", shown, advice)
    return Check("clock", "ok", shown)


def _check_other_revision(connection: Connection, name: str, revision: str | None) -> Check:
    migrations.check_schema(connection, name)  # raises for an older one
    return Check("revision", "ok", f"{revision}, newer than {REVISION} of this release, which can use it")


def _check_open_turns(connection: Connection) -> Check:
    open_turns = turns.count_open_turns(connection)
    if not open_turns.count:
        return Check("open turns", "ok", "none")
    oldest_s = open_turns.oldest_us / 1_000_000
    shown = f"{open_turns.count:,}, the oldest for {oldest_s:,.0f} s, {open_turns.expired:,} past their lease"
    if oldest_s < _OLD_TURN_S:
        return Check("open turns", "ok", shown)
    recover = format_command("recover")
    advice = f"`{recover}` closes those of dead workers, and so does the next message in each conversation"
    return Check("open turns", "warn", shown, advice)


def _check_environment() -> Iterator[Check]:
    environment = Environment.read()
    if environment.model is None:
        yield Check("model", "warn", "not set", "set CONVOKIT_MODEL or use --model; `chat --local` needs neither")
    else:
        yield Check("model", "ok", environment.model)
        yield check_counter(environment.model)
    base_url = environment.base_url or DEFAULT_BASE_URL
    try:
        with open_kit(
            DatabaseOption(shared_options.DEFAULT_DATABASE)
        ):  # a kit validates the URL and connects to nothing
            yield Check("base URL", "ok", base_url)
    except ConvokitError as error:
        yield Check("base URL", "fail", str(error), "correct OPENAI_BASE_URL")
    if environment.api_key is not None:
        yield Check("API key", "ok", "set")
    elif resolve_profile(environment.model or "", base_url).needs_key:
        yield Check("API key", "warn", "not set", "set OPENAI_API_KEY; `chat --local` needs none")
    else:
        yield Check("API key", "ok", "not set, and this server needs none")


def check_counter(model: str) -> Check:
    """Name the counter of a model, and what would make it better."""
    name, vocabulary = "token counter", find_vocabulary(model)
    counter = choose_text_counter(vocabulary)
    try:
        counter.count(model)  # loads the vocabulary and checks it
    except ConvokitError as error:
        return Check(name, "fail", str(error), _INSTALL_TOKENS)
    if not is_estimate(counter):
        return Check(name, "ok", f"exact: {counter.name}")
    if counter.name.startswith(NEAR):
        return Check(name, "ok", f"near: {counter.name}; reported usage corrects it")
    found = "an estimate; reported usage corrects it"
    if vocabulary is None or vocabulary.startswith(NEAR):
        return Check(name, "ok", found, f"{_INSTALL_TOKENS} brings a vocabulary that is near the model's")
    return Check(name, "ok", found, f"{_INSTALL_TOKENS} makes the counts exact ({vocabulary})")
