"""`db`: the tables. They change only here, and when `chat` makes a SQLite file of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import typer
from sqlalchemy import Connection
from typer.core import TyperGroup

from convokit.cli import options
from convokit.cli.display import note, one_line, out, print_json, waiting
from convokit.cli.opening import Place, opened
from convokit.run.sync import SyncStore
from convokit.store import layout, migrate
from convokit.store.engine import describe, open_engine
from convokit.store.schema import REVISION

Result = TypeVar("Result")

db = typer.Typer(
    cls=TyperGroup, help="Make, upgrade and check the tables.", no_args_is_help=True, rich_markup_mode=None
)


@db.command()
def upgrade(
    *,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
) -> None:
    """Bring the tables up to date.

    Creates a SQLite file that is not there. Safe to run from many processes at once.
    """
    place = Place(database)
    before = None if place.is_new_file else looked_at(place, migrate.current)
    with opened(place) as kit, waiting("upgrading"):
        kit.migrate()
    after = looked_at(place, migrate.current)
    if json:
        print_json({"before": before, "after": after})
    elif before == after:
        out().print(f"already at revision {after}")
    else:
        out().print(f"upgraded from {before or 'nothing'} to revision {after}")


@db.command()
def current(
    *,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
) -> None:
    """Print the revision the tables are at, and the one this code needs."""
    found = looked_at(Place(database), migrate.current)
    if json:
        print_json({"current": found, "needs": REVISION})
        return
    out().print(found or "none")
    if found != REVISION:
        note(f"this code needs {REVISION}: run `convokit db upgrade`")


@db.command()
def check(
    *,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
) -> None:
    """Compare the tables with what this code expects.

    Exits with 1 when they differ.
    """
    place = Place(database)
    name = describe(place.url)

    def compared(connection: Connection) -> list[str]:
        migrate.check(connection, name)
        return layout.differences(connection)

    with waiting("comparing"):
        found = looked_at(place, compared)
    if json:
        print_json({"ok": not found, "differences": found})
    elif found:
        for difference in found:
            out().print(one_line(difference, 2000))
    else:
        out().print("the tables are what this code expects")
    if found:
        raise typer.Exit(1)


def looked_at(place: Place, look: Callable[[Connection], Result]) -> Result:
    """Run a reading function over the database. Raises: StoreError, SettingsError."""
    url = place.url
    store = SyncStore(open_engine(url), describe(url))
    try:
        return store.run(look, write=False)
    finally:
        store.close()
