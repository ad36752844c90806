"""Define `convokit keys`: create, list and revoke API keys."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from typer.core import TyperGroup

from convokit import Limits
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, read_database, write_database
from convokit.cli.invocation import format_command
from convokit.domain.text import validate_name
from convokit.errors import InvalidInput, NotFound
from convokit.store import keys as key_store
from convokit.store import migrations
from convokit.store.engine import describe_url
from convokit.store.keys import ApiKeyRow

Result = TypeVar("Result")
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key in its tenant.")]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Tenant whose conversations the key opens.")]
_AGE = re.compile(r"(\d{1,5})([hdwy])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}
_MAX_REQUESTS = 2**31 - 1


class Scope(StrEnum):
    """The values of `--scope`. typer takes no list of a Literal."""

    CHAT = key_store.CHAT
    READ = key_store.READ


keys = typer.Typer(
    cls=TyperGroup,
    help="Create, list and revoke the API keys of the gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@keys.command()
def create(
    name: KeyName,
    *,
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="What the key may do; default: both. May be given twice."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="Model that the key may use; default: all. May be repeated."
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option("--requests-per-minute", min=1, max=_MAX_REQUESTS, metavar="N", help="Limit; default: none."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="End: in 12h, 90d, 8w or 1y, or a date (UTC); default: none."),
    ] = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: Tenant = "default",
) -> None:
    """Create an API key and print it.

    The key is printed this once. The database has its SHA-256 only.
    """
    limit = Limits().key_chars
    now = datetime.now(UTC)
    ends = _parse_end(expires, now)
    api_key = key_store.make_key()
    row = ApiKeyRow(
        digest=key_store.digest_key(api_key),
        tenant=validate_name("tenant", tenant, limit),
        name=validate_name("name", name, limit),
        scopes=tuple(sorted({each.value for each in scope or Scope})),
        models=tuple(validate_name("model", each, limit) for each in dict.fromkeys(model)) if model else None,
        requests_per_minute=requests_per_minute,
        created_at=_to_us(now),
        expires_at=None if ends is None else _to_us(ends),
    )
    _write(DatabaseOption(database), lambda connection: _insert(connection, row))
    if json:
        output.print_json({"key": api_key, **_dump(row)})
        return
    print(api_key)
    output.print_note("store the key now: it is not shown again, and the database has its SHA-256 only")


def _insert(connection: Connection, row: ApiKeyRow) -> None:
    try:
        key_store.insert_key(connection, row)
    except IntegrityError:
        command = format_command("keys", "ls", *(("--tenant", row.tenant) if row.tenant != "default" else ()))
        advice = f"choose another name; a revoked key keeps its name, and `{command}` lists all keys"
        raise InvalidInput("name", f"tenant {row.tenant!r} has a key {row.name!r} already: {advice}") from None


@keys.command()
def ls(
    *,
    all_tenants: shared_options.AllTenants = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: Tenant = "default",
) -> None:
    """List API keys, the oldest first, also revoked and expired ones.

    A key itself cannot be shown: it is stored nowhere.
    """
    target = DatabaseOption(database)
    wanted = None if all_tenants else validate_name("tenant", tenant, Limits().key_chars)
    rows = read_database(target, _checked(target, lambda connection: key_store.list_keys(connection, wanted)))
    if json:
        output.print_json({"keys": [_dump(row) for row in rows]})
    elif rows:
        _print_keys(rows, with_tenant=all_tenants)
    else:
        output.print_note("no API keys" + ("" if all_tenants else f" of tenant {output.to_one_line(tenant)}") + " yet")


@keys.command()
def revoke(
    name: KeyName,
    *,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: Tenant = "default",
) -> None:
    """Revoke an API key for good.

    A running gateway refuses the key after five seconds at the latest. The key stays in the list.
    """
    limit, now = Limits().key_chars, _to_us(datetime.now(UTC))
    tenant, name = validate_name("tenant", tenant, limit), validate_name("name", name, limit)

    def execute(connection: Connection) -> tuple[bool, ApiKeyRow | None]:
        is_new = key_store.revoke_key(connection, tenant, name, now)
        return is_new, key_store.find_key_by_name(connection, tenant, name)

    is_new, row = _write(DatabaseOption(database), execute)
    if row is None:
        raise NotFound("key", name, f"`{format_command('keys', 'ls', '--all-tenants')}` lists the keys")
    if json:
        output.print_json(_dump(row))
    else:
        when = "is revoked" if is_new else f"was revoked already, on {_format(row.revoked_at)}"
        output.print_note(f"{output.to_one_line(name)} {when}")


def _write(target: DatabaseOption, function: Callable[[Connection], Result]) -> Result:
    return write_database(target, _checked(target, function))


def _checked(target: DatabaseOption, function: Callable[[Connection], Result]) -> Callable[[Connection], Result]:
    """Return the function with a check of the tables before it."""

    def run(connection: Connection) -> Result:
        migrations.check_schema(connection, describe_url(target.url))
        return function(connection)

    return run


def _parse_end(text: str | None, now: datetime) -> datetime | None:
    """Return the time at which a key expires, in UTC."""
    if text is None:
        return None
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            end = now + timedelta(hours=int(age[1]) * _HOURS[age[2]])
        else:
            end = datetime.combine(date.fromisoformat(text), time_of_day(), UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"--expires takes 12h, 90d, 8w, 1y or a date like 2027-01-31, not {text!r}") from None
    if end <= now:
        raise typer.BadParameter(f"--expires: {text} is over already; name a time in the future")
    return end


def _to_us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _from_us(us: int | None) -> datetime | None:
    return None if us is None else datetime.fromtimestamp(us / 1_000_000, UTC)


def _dump(row: ApiKeyRow) -> dict[str, Any]:
    """Return a key as JSON, without its digest."""
    times = {name: _from_us(getattr(row, name)) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "tenant": row.tenant,
        "name": row.name,
        "state": key_store.describe_state(row, time.time_ns() // 1000),
        "scopes": row.scopes,
        "models": row.models,
        "requests_per_minute": row.requests_per_minute,
        **{name: None if at is None else at.isoformat() for name, at in times.items()},
    }


def _format(us: int | None) -> str:
    moment = _from_us(us)
    return "" if moment is None else output.format_time(moment)


def _print_keys(rows: Sequence[ApiKeyRow], *, with_tenant: bool) -> None:
    now = time.time_ns() // 1000
    cells = [
        {
            "tenant": output.to_one_line(row.tenant),
            "name": output.to_one_line(row.name),
            "state": key_store.describe_state(row, now),
            "created": _format(row.created_at),
            "expires": _format(row.expires_at),
            "per minute": "" if row.requests_per_minute is None else f"{row.requests_per_minute:,}",
            "scopes": " ".join(row.scopes),
            "models": "all" if row.models is None else " ".join(map(output.to_one_line, row.models)),
        }
        for row in rows
    ]
    columns = [each for each in cells[0] if any(row[each] for row in cells) and (with_tenant or each != "tenant")]
    table = output.make_table(*columns, right=("per minute",), cut=("tenant", "name", "models"))
    for row in cells:
        cut = ("tenant", "name", "models")
        table.add_row(*(output.make_cell(row[each]) if each in cut else row[each] for each in columns))
    output.get_console().print(table)
