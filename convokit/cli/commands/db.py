"""Define `convokit db`: create, upgrade and check the tables.

Only these commands change tables, with one exception: `chat` creates a SQLite file that does not exist yet.
"""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import Connection
from typer.core import TyperGroup

from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit, read_database, write_database
from convokit.cli.invocation import format_command
from convokit.store import distribution, indexes, migrations
from convokit.store.dialects import dialect_of
from convokit.store.distribution import ClusterNode, DistributionPlan
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


@db.command()
def distribute(
    *,
    worker: Annotated[
        list[str] | None,
        typer.Option(
            "--worker", metavar="HOST:PORT", help="A server that joins the cluster. May be given several times."
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=distribution.MAX_SHARDS,
            help="Number of shards: two to four for each core of all workers. Default: citus.shard_count of the server.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL, and change nothing.")] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
) -> None:
    """Distribute the tables over a Citus cluster, by conversation.

    Runs on the coordinator, in one transaction. Writers wait until it ends, and none fails. What is distributed already is left
    as it is.
    """
    workers = _parse_workers(worker or [])
    target = DatabaseOption(database)
    name = describe_url(target.url)

    def plan_only(connection: Connection) -> DistributionPlan:
        plan = distribution.plan_distribution(connection, name, workers=workers, shards=shards)
        migrations.check_schema(connection, name)
        return plan

    def execute(connection: Connection) -> DistributionPlan:
        dialect_of(connection).lock_migrations(connection)  # nobody distributes or migrates at the same time
        plan = plan_only(connection)
        distribution.run_plan(connection, name, plan)
        return plan

    if dry_run:
        plan = read_database(target, plan_only)
    else:
        with output.show_spinner("distributing"):
            plan = write_database(target, execute)
    if json:
        output.print_json(
            {
                "dry_run": dry_run,
                "distributed": plan.tables,
                "workers": [str(each) for each in plan.workers],
                "statements": plan.statements,
            }
        )
        return
    if dry_run:
        _print_statements(plan)
    else:
        _print_distributed(plan)


def _parse_workers(given: list[str]) -> list[ClusterNode]:
    try:
        return [distribution.parse_worker(each) for each in given]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--worker") from None


def _print_statements(plan: DistributionPlan) -> None:
    for statement in ["BEGIN", *plan.statements, "COMMIT"] if plan.statements else []:
        output.get_console().print(f"{statement};", soft_wrap=True, highlight=False)
    if not plan.statements:
        output.print_note("nothing to do: all tables are distributed")


def _print_distributed(plan: DistributionPlan) -> None:
    console = output.get_console()
    if plan.workers:
        console.print(f"added {', '.join(map(str, plan.workers))}", highlight=False)
    if plan.tables:
        count = len(plan.tables)
        console.print(f"distributed {count} table{'' if count == 1 else 's'}", highlight=False)
    elif plan.workers:
        output.print_note("move shards to the new workers with SELECT citus_rebalance_start()")
    else:
        console.print("all tables are distributed already")
