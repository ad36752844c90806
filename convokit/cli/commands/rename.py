"""Define `convokit rename` and `convokit archive`: change a conversation without a turn."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convokit import Conversation
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit


def rename(
    conversation: shared_options.RequiredConversation,
    title: Annotated[str | None, typer.Argument(metavar="[TITLE]", help="The new title.")] = None,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the title.")] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Give a conversation a title, or remove its title."""
    if clear == bool(title):
        raise typer.BadParameter("TITLE and --clear exclude each other" if clear else "pass a TITLE, or --clear")
    changed = _update(DatabaseOption(database, tenant), conversation, title=None if clear else title)
    if json:
        output.print_json(changed.model_dump(mode="json"))
    else:
        name = output.to_one_line(conversation)
        shown = "no title" if changed.title is None else f"the title is {output.to_one_line(changed.title)}"
        output.print_note(f"{name}: {shown}")


def archive(
    conversation: shared_options.RequiredConversation,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Take the conversation out of the archive.")] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Archive a conversation. Its next turn takes it out of the archive.

    `convokit ls --no-archived` lists the others.
    """
    changed = _update(DatabaseOption(database, tenant), conversation, archived=not undo)
    if json:
        output.print_json(changed.model_dump(mode="json"))
    else:
        state = "not archived now" if undo else "archived"
        output.print_note(f"{output.to_one_line(conversation)} is {state}")


def _update(database: DatabaseOption, name: str, **changes: Any) -> Conversation:
    with open_kit(database) as kit:
        return find_chat(kit, name).update(**changes)
