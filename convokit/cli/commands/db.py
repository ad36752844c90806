"""`db`: the tables. They change only here, and when `chat` makes a SQLite file of its own.

`recover`: closing what dead workers left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer
from sqlalchemy import Connection
from typer.core import TyperGroup

from convokit.cli import options
from convokit.cli.connect import Place, opened
from convokit.cli.output import lasted, note, one_line, out, print_json, table, waiting
from convokit.domain.turn import Recovered
from convokit.runtime.sync_store import SyncStore
from convokit.store import indexes, migrations, turns
from convokit.store.engine import describe_url, open_engine
from convokit.store.schema import REVISION

AllTenants = Annotated[bool, typer.Option("--all-tenants", help="Those of every tenant in the database.")]
Result = TypeVar("Result")

db = typer.Typer(
    cls=TyperGroup, help="Make, upgrade and check the tables.", no_args_is_help=True, rich_markup_mode=None
)


def recover(
    *,
    all_tenants: AllTenants = False,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Close the turns whose worker is gone, and keep what came of their replies.

    Nobody has to run this: the next message to such a conversation does the same for it. Safe at any time, and from several
    processes at once.
    """
    with opened(Place(database, tenant)) as kit:
        found = [(tenant, each) for each in kit.recover()]
        if all_tenants:
            others = [name for name in looked_at(Place(database), turns.list_tenants_with_open_turns) if name != tenant]
            found += [(name, each) for name in others for each in kit.tenant(name).recover()]
    if json:
        print_json({"recovered": [{"tenant": name, **each.model_dump(mode="json")} for name, each in found]})
    elif found:
        _print(found, with_tenant=all_tenants)
    else:
        note("nothing to recover: no turn is open whose worker is gone")


def _print(found: list[tuple[str, Recovered]], *, with_tenant: bool) -> None:
    columns = [*(["tenant"] if with_tenant else []), "conversation", "open for", "kept of its reply"]
    listing = table(*columns, right=("open for", "kept of its reply"))
    for tenant, each in found:
        name = one_line(each.key) if each.key is not None else str(each.conversation_id)
        row = [name, lasted(each.open_s), f"{each.kept_chars:,} characters"]
        listing.add_row(*([one_line(tenant)] if with_tenant else []), *row)
    out().print(listing)


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
    before = None if place.is_new_file else looked_at(place, migrations.read_revision)
    with opened(place) as kit, waiting("upgrading"):
        kit.migrate()
    after = looked_at(place, migrations.read_revision)
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
    found = looked_at(Place(database), migrations.read_revision)
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
    name = describe_url(place.url)

    def compared(connection: Connection) -> list[str]:
        migrations.check_schema(connection, name)
        return indexes.list_differences(connection)

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
    store = SyncStore(open_engine(url), describe_url(url))
    try:
        return store.run(look, write=False)
    finally:
        store.close()
