"""`recover`: closing what dead workers left behind."""

from __future__ import annotations

from typing import Annotated

import typer

from convokit.cli import options
from convokit.cli.database import looked_at
from convokit.cli.display import lasted, note, one_line, out, print_json, table
from convokit.cli.opening import Place, opened
from convokit.domain.turn import Recovered
from convokit.store import turns

AllTenants = Annotated[bool, typer.Option("--all-tenants", help="Those of every tenant in the database.")]


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
            others = [name for name in looked_at(Place(database), turns.tenants_with_open) if name != tenant]
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
