"""Define `convokit show`: print the messages of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text
from sqlalchemy import Connection

from convokit import Branch, Chat, Message
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit, read_database
from convokit.cli.tree import draw_tree, find_path
from convokit.domain.message import to_datetime
from convokit.domain.removal import EVERYTHING, RemovalRow
from convokit.store import removal_records

_PAGE = 1000


def show(
    conversation: shared_options.Conversation = None,
    *,
    last: Annotated[int, typer.Option("--last", "-n", min=1, metavar="N", help="Newest messages to show.")] = 50,
    tree: Annotated[bool, typer.Option("--tree", help="Show the messages of all branches as a tree.")] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Show a conversation's messages, oldest first."""
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
        chat = find_chat(kit, conversation)
        assert chat.id is not None
        removals = read_database(DatabaseOption(database, tenant), partial(_list_removals, chat.id))
        if tree:
            _show_tree(chat, last, removals, json=json)
        else:
            _show_path(chat, last, removals, json=json)


def _list_removals(conversation_id: UUID, connection: Connection) -> list[RemovalRow]:
    """Return the newest removals of a conversation, oldest first."""
    return removal_records.list_newest(connection, conversation_id)[::-1]


def _show_path(chat: Chat, last: int, removals: list[RemovalRow], *, json: bool) -> None:
    messages = read_newest(chat, last)
    if json:
        dumped = [_dump_message(message) for message in messages]
        shown = {"conversation_id": str(chat.id), "key": chat.key, "messages": dumped}
        output.print_json({**shown, "removals": [_dump_removal(each) for each in removals]})
        return
    _print_erasures(removals)
    if messages and chat.messages(limit=1, before=messages[0].seq):
        _note_earlier(last)
    print_messages(messages, {each.ref: each for each in removals})


def _show_tree(chat: Chat, last: int, removals: list[RemovalRow], *, json: bool) -> None:
    messages = read_newest(chat, last, all_branches=True)
    branches = _read_branches(chat)
    path = find_path(messages, branches[0].head)
    if json:
        output.print_json(
            {
                "conversation_id": str(chat.id),
                "key": chat.key,
                "branches": [branch.model_dump(mode="json") for branch in branches],
                "path": sorted(path),
                "messages": [_dump_message(message) for message in messages],
                "removals": [_dump_removal(each) for each in removals],
            }
        )
        return
    _print_erasures(removals)
    if messages and messages[0].seq > 1:
        _note_earlier(last)
    console = output.get_console()
    for line in draw_tree(messages, branches, path, console.width):
        console.print(line)


def read_newest(chat: Chat, count: int, *, all_branches: bool = False) -> list[Message]:
    """Read the newest `count` messages of the chat's path, or of all branches, oldest first."""
    read_page = chat.log if all_branches else chat.messages
    messages: list[Message] = []
    while len(messages) < count:
        limit = min(count - len(messages), _PAGE)
        page = read_page(limit=limit, before=messages[0].seq if messages else None)
        messages = [*page, *messages]
        if len(page) < limit:
            break
    return messages


def _read_branches(chat: Chat) -> list[Branch]:
    """Read the newest branches, with the main branch first."""
    branches = chat.branches(limit=_PAGE)
    return branches if branches[0].number == 0 else [*chat.branches(before=1), *branches]


def _dump_message(message: Message) -> dict[str, Any]:
    # `text` is a property: it joins the text parts of a message with parts.
    return {**message.model_dump(mode="json"), "text": message.text}


def _dump_removal(removal: RemovalRow) -> dict[str, Any]:
    at = to_datetime(removal.created_at).isoformat()
    return {"ref": removal.ref, "at": at, "author": removal.author, "reason": removal.reason}


def _print_erasures(removals: Sequence[RemovalRow]) -> None:
    """Print who erased all text of the conversation, and when."""
    for removal in removals:
        if removal.ref == EVERYTHING:
            line = Text(f"all messages until then were erased {_describe_removal(removal)}", style="yellow")
            output.print_wrapped(output.get_console(), line)


def _describe_removal(removal: RemovalRow) -> str:
    return output.format_removal(to_datetime(removal.created_at), removal.author, removal.reason)


def _note_earlier(last: int) -> None:
    output.print_note(f"earlier messages are not shown: --last {last * 2} shows more")


def print_messages(messages: Iterable[Message], removals: Mapping[str, RemovalRow] | None = None) -> None:
    """Print each message's role, time, text and tool calls. `removals` tells who redacted a message, by its ref."""
    console = output.get_console()
    for message in messages:
        head = Text(output.make_safe(message.role), style=output.get_role_style(message.role))
        head.append(f"  {output.format_time(message.created_at)}", style="not bold default dim")
        if message.status != "complete":
            removal = (removals or {}).get(f"message:{message.seq}")
            status = message.status if removal is None else f"{message.status} {_describe_removal(removal)}"
            head.append(f"  ({status})", style="not bold yellow")
        console.print(head)
        if message.text:
            output.write_text(f"{message.text}\n")
        for call in message.tool_calls or ():
            function: dict[str, Any] = call.get("function", {})
            shown = output.to_one_line(f"{function.get('name', '?')}({function.get('arguments', '')})")
            console.print(Text(f"calls {shown}", style="yellow"))
        console.print()
