"""Define `convokit db`: create, upgrade and check the tables.

Only these commands change tables, with one exception: `chat` creates a SQLite file that does not exist yet.
"""

from __future__ import annotations

import typer
from sqlalchemy import Connection
from typer.core import TyperGroup

from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit, read_database
from convokit.cli.invocation import format_command
from convokit.store import indexes, migrations
from convokit.store.engine import describe_url
from convokit.store.schema import REVISION

db = typer.Typer(
    cls=TyperGroup, help="Create, upgrade and check the tables.", no_args_is_help=True, rich_markup_mode=None
)


@db.command()
def upgrade(
    *, json: shared_options.Json = False, database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE
) -> None:
    """Create the tables or upgrade them to the revision that this release needs.

    A SQLite file that does not exist is created. Several processes may run this at once.
    """
    target = DatabaseOption(database)
    before = None if target.is_new_file else read_database(target, migrations.read_revision)
    with open_kit(target) as kit, output.show_spinner("upgrading"):
        kit.migrate()
    after = read_database(target, migrations.read_revision)
    if json:
        output.print_json({"before": before, "after": after})
    elif before == after:
        output.get_console().print(f"already at revision {after}")
    else:
        output.get_console().print(f"upgraded from {before or 'nothing'} to revision {after}")


@db.command()
def current(
    *, json: shared_options.Json = False, database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE
) -> None:
    """Print the revision of the tables; note the revision that this release needs if it differs."""
    revision = read_database(DatabaseOption(database), migrations.read_revision)
    if json:
        output.print_json({"current": revision, "needs": REVISION})
        return
    output.get_console().print(revision or "none")
    if revision != REVISION:
        output.print_note(f"this release needs revision {REVISION}: run `{format_command('db', 'upgrade')}`")


@db.command()
def check(
    *, json: shared_options.Json = False, database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE
) -> None:
    """Compare the tables with the ones that this release expects.

    Exits with 1 if they differ.
    """
    target = DatabaseOption(database)
    name = describe_url(target.url)

    def find_differences(connection: Connection) -> list[str]:
        migrations.check_schema(connection, name)
        return indexes.list_differences(connection)

    with output.show_spinner("comparing"):
        differences = read_database(target, find_differences)
    if json:
        output.print_json({"ok": not differences, "differences": differences})
    elif differences:
        for difference in differences:
            output.get_console().print(output.to_one_line(difference, 2000))
    else:
        output.get_console().print("the tables match this release")
    if differences:
        raise typer.Exit(1)
