"""`ls`, `show` and `context`: looking at what is stored. Nothing is written and no server is called."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from convokit import Conversation as Stored
from convokit import Page, Summary
from convokit.cli import options
from convokit.cli.connect import Answering, Place, existing_chat, opened
from convokit.cli.context_view import WINDOW_NOW, print_context
from convokit.cli.output import (
    ago,
    as_json,
    cell,
    fitted,
    newest,
    note,
    one_line,
    out,
    print_json,
    print_messages,
    table,
)
from convokit.cli.tree import show_tree

_WIDE = 100
"""From how many columns on a title fits beside the id."""
Last = Annotated[int, typer.Option("--last", "-n", min=1, metavar="N", help="How many messages, the newest ones.")]


def ls(
    *,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only this person's conversations.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="How many at most.")] = 20,
    before: Annotated[
        str | None, typer.Option("--before", metavar="CURSOR", help="The page after this one.", show_default=False)
    ] = None,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """List conversations, the last used first."""
    with opened(Place(database, tenant)) as kit:
        page = kit.conversations(subject=subject, limit=limit, before=before)
    if json:
        found = [conversation.model_dump(mode="json") for conversation in page]
        print_json({"conversations": found, "next": page.next})
    elif page.items:
        _print_page(page)
    else:
        note("no conversations" + (f" of {one_line(subject)}" if subject else "") + " yet")


def _print_page(page: Page[Stored]) -> None:
    console, now = out(), datetime.now(UTC)
    extras = [name for name in ("title", "subject") if any(getattr(found, name) for found in page.items)]
    if extras and console.width < _WIDE:
        for found in page.items:
            console.print(Text(_name(found), style="bold"))
            for name in extras:
                if value := getattr(found, name):
                    console.print(
                        "  ", fitted(f"of {value}" if name == "subject" else value, console.width - 2), sep=""
                    )
            console.print(f"  {found.last_seq:,} messages, {ago(found.updated_at, now)}")
    else:
        listing = table("conversation", "messages", "last used", *extras, right=("messages",), cut=("title", "subject"))
        for found in page.items:
            row = [_name(found), f"{found.last_seq:,}", ago(found.updated_at, now)]
            listing.add_row(*row, *(cell(getattr(found, name) or "") for name in extras))
        console.print(listing)
    if page.next is not None:
        note(f"more: convokit ls --before {page.next}")


def _name(found: Stored) -> str:
    return one_line(found.key) if found.key is not None else str(found.id)


def show(
    conversation: options.Conversation = None,
    *,
    last: Last = 50,
    tree: Annotated[bool, typer.Option("--tree", help="The messages of all branches, as a tree.")] = False,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Show a conversation's messages, oldest first."""
    with opened(Place(database, tenant)) as kit:
        chat = existing_chat(kit, conversation)
        if tree:
            show_tree(chat, last, json=json)
            return
        messages = newest(chat, last)
        if json:
            found = [as_json(message) for message in messages]
            print_json({"conversation_id": str(chat.id), "key": chat.key, "messages": found})
            return
        more = bool(messages) and bool(chat.messages(limit=1, before=messages[0].seq))
    if more:
        note(f"earlier messages are not shown: --last {last * 2} shows more")
    print_messages(messages)


def context(
    conversation: options.Conversation = None,
    *,
    text: Annotated[
        str | None, typer.Option("--text", "-t", metavar="TEXT", help="The next question.", show_default=False)
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="With the rolling summary, as its defaults make it.")
    ] = False,
    local: options.Local = False,
    gguf: options.Gguf = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    profile: options.Profile = None,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Show what would be sent to the model, what stays out, and why. No call is made."""
    source = Answering(local, gguf, model, base_url, profile)
    place = Place(database, tenant)
    if source.local:
        with opened(place) as kit:
            existing_chat(kit, conversation)  # before a model is started for it
    with source.settings() as settings, opened(place, settings) as kit:
        chat = existing_chat(kit, conversation, **_on_chat(settings))
        found = chat.context(text, summary=Summary() if summary else None)
    if json:
        print_json({"messages": found.messages, "report": found.report.model_dump(mode="json")})
        return
    name = chat.key if chat.key is not None else str(chat.id)
    print_context(found, f"{name}: {WINDOW_NOW if text is None else 'what this question would send'}")


def _on_chat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the model that was named here: it beats the one stored with the chat, and is not stored by looking."""
    return {"model": settings["model"]} if "model" in settings else {}
