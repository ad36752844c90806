"""Define `convokit recover`: close the turns of dead workers."""

from __future__ import annotations

from rich.text import Text

from convokit import Recovered
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit, read_database
from convokit.store import turns


def recover(
    *,
    all_tenants: shared_options.AllTenants = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Close the turns of dead workers and keep their partial replies.

    This is optional: the next message to a conversation closes its open turn too. Several processes may run it at once.
    """
    with open_kit(DatabaseOption(database, tenant)) as kit:
        recovered = [(tenant, each) for each in kit.recover()]
        if all_tenants:
            for name in read_database(DatabaseOption(database), turns.list_tenants_with_open_turns):
                if name != tenant:
                    recovered += [(name, each) for each in kit.tenant(name).recover()]
    if json:
        output.print_json({"recovered": [{"tenant": name, **each.model_dump(mode="json")} for name, each in recovered]})
    elif recovered:
        closed = output.format_count(len(recovered), "turn")
        output.print_note(f"closed {closed} of dead workers; the parts of their replies are kept")
        _print(recovered, with_tenant=all_tenants)
    else:
        output.print_note("nothing to recover: no open turn belongs to a dead worker")


def _print(recovered: list[tuple[str, Recovered]], *, with_tenant: bool) -> None:
    columns = [*(["tenant"] if with_tenant else []), "conversation", "open for", "kept of its reply"]
    table = output.make_table(*columns, right=("open for", "kept of its reply"), cut=("conversation",))
    for tenant, each in recovered:
        name = each.key if each.key is not None else str(each.conversation_id)
        row: list[str | Text] = [
            output.make_cell(name),
            output.format_duration(each.open_s),
            f"{each.kept_chars:,} characters",
        ]
        table.add_row(*([output.to_one_line(tenant)] if with_tenant else []), *row)
    output.get_console().print(table)
