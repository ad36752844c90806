"""Define `convokit redact`, `erase` and `purge`: remove stored text after a confirmation."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from convokit import Receipt
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit
from convokit.domain.removal import VACUUM_COMMAND

_AGE = re.compile(r"(\d{1,6}) ?([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}
_ROW_NAMES = {
    "message": "messages",
    "blob": "binary parts",
    "completion": "details and errors of API calls",
    "chunk": "chunks of replies",
    "turn": "errors of turns",
    "tool_call": "tool calls",
    "summary": "summaries",
    "prompt": "developer prompts and tool sets",
    "salt": "salts of digests",
    "conversation": "titles, subjects and settings of conversations",
}
_BYTES = {
    "gone": "removed from the database file and its log",
    "found": "still in the database file, in data that is not convokit's",
    "pending": "still in the log, because another process reads an older state: run this again later",
    "unchecked": "unknown, because the database file could not be read",
    "server": f"in the server's files until `{VACUUM_COMMAND}`, and in its WAL and backups for as long as they are kept",
}
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count the rows to remove, and remove nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Reason, stored with the history.")]
Author = Annotated[
    str | None, typer.Option("--author", metavar="NAME", help="Person who removes, stored with the history.")
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than", metavar="AGE", help="Conversations that were not used for this long: 12h, 90d, 8w, 2y."
    ),
]


def redact(
    conversation: shared_options.RequiredConversation,
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=1, help="Number (seq) of the message.")],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    reason: Reason = None,
    author: Author = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Remove the text of one message.

    The empty message stays, so that the hash chain can be verified.
    """
    with open_kit(DatabaseOption(database, tenant), read_only=dry_run) as kit:
        chat = find_chat(kit, conversation)
        _confirm_and_remove(
            lambda dry: chat.redact(seq, reason=reason, author=author, dry_run=dry),
            f"message {seq} of {output.to_one_line(conversation)}",
            dry_run=dry_run,
            yes=yes,
            json=json,
        )


def erase(
    conversation: Annotated[
        str | None, typer.Argument(metavar="[KEY-or-ID]", help="Key or id of the conversation.")
    ] = None,
    *,
    subject: shared_options.Subject = None,
    older_than: OlderThan = None,
    expect_some: Annotated[bool, typer.Option("--expect-some", help="Exit with 1 if no conversation matches.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    reason: Reason = None,
    author: Author = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Remove all text of one or several conversations.

    Empty messages stay, so that the hash chain can be verified; `purge` deletes them too. An interrupted run may be repeated.
    """
    selects_many = subject is not None or older_than is not None
    if (conversation is None) is not selects_many:
        raise typer.BadParameter("name a conversation, or --subject or --older-than")
    age = _parse_age(older_than)
    with open_kit(DatabaseOption(database, tenant), read_only=dry_run) as kit:
        chat = None if conversation is None else find_chat(kit, conversation)

        def remove(dry: bool) -> Receipt:
            if chat is not None:
                return chat.erase(reason=reason, author=author, dry_run=dry)
            with output.show_progress("counting" if dry else "erasing") as progress:
                return kit.erase(
                    subject=subject, older_than=age, reason=reason, author=author, dry_run=dry, progress=progress
                )

        target = "all conversations" if conversation is None else output.to_one_line(conversation)
        target += "" if subject is None else f" of {output.to_one_line(subject)}"
        target += "" if older_than is None else f" not used for {older_than}"
        receipt = _confirm_and_remove(remove, target, dry_run=dry_run, yes=yes, json=json)
    if not receipt.conversations and not receipt.skipped:
        nothing = "there is nothing to remove" if dry_run else "there was nothing left to remove"
        output.print_note(f"{target}: no conversation matches, {nothing}")
        if expect_some:
            raise typer.Exit(1)


def purge(
    *,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Delete erased conversations, with their empty messages and hash chain."""
    age = _parse_age(older_than)
    with open_kit(DatabaseOption(database, tenant), read_only=dry_run) as kit:

        def remove(dry: bool) -> Receipt:
            with output.show_progress("counting" if dry else "deleting") as progress:
                return kit.purge(older_than=age, dry_run=dry, progress=progress)

        _confirm_and_remove(remove, "all erased conversations", dry_run=dry_run, yes=yes, json=json)


def _confirm_and_remove(
    remove: Callable[[bool], Receipt], target: str, *, dry_run: bool, yes: bool, json: bool
) -> Receipt:
    """Count with `remove(True)`, ask, and remove with `remove(False)`. Return the receipt."""
    if not dry_run and not yes:
        counted = remove(True)
        _note_target(counted, target)
        if counted.conversations and not typer.confirm("This cannot be undone. Continue?", err=True):
            output.print_note("nothing was removed")
            raise typer.Exit(1)
    receipt = remove(dry_run)
    if json:
        output.print_json({**receipt.model_dump(mode="json"), "complete": receipt.complete})
    else:
        _print_receipt(receipt)
    if not receipt.complete:
        raise typer.Exit(1)
    return receipt


def _note_target(counted: Receipt, target: str) -> None:
    conversations = output.format_count(counted.conversations, "conversation")
    if counted.action == "purge":
        output.print_note(f"delete {target}: {conversations}")
    else:
        messages = output.format_count(counted.removed.get("message", 0), "message")
        output.print_note(f"{counted.action} {target}: {conversations}, {messages}")


def _print_receipt(receipt: Receipt) -> None:
    console = output.get_console()
    if receipt.removed:
        table = output.make_table("to remove" if receipt.dry_run else "removed", "rows", right=("rows",))
        for name, count in receipt.removed.items():
            table.add_row("conversations" if receipt.action == "purge" else _ROW_NAMES.get(name, name), f"{count:,}")
        console.print(table)
    elif receipt.conversations or receipt.action == "purge":  # `erase` itself says that nothing matched
        output.print_note("there is nothing to remove" if receipt.dry_run else "there was nothing left to remove")
    if receipt.dry_run:
        return
    facts = {
        "conversations": f"{receipt.conversations:,}",
        "time": receipt.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "author": receipt.author,
        "reason": receipt.reason,
        "rows left": None if receipt.remaining is None else f"{receipt.remaining:,}",
        "hash chain": receipt.chain,
        "bytes": _BYTES[receipt.bytes],
        "left alone": ", ".join(map(str, receipt.skipped)) + " (a turn is open)" if receipt.skipped else None,
    }
    for name, value in facts.items():
        if value is not None:
            output.print_wrapped(console, Text(f"{name + ':':<15}{output.to_one_line(value, 2000)}"))


def _parse_age(age: str | None) -> timedelta | None:
    if age is None:
        return None
    match = _AGE.fullmatch(age.strip())
    if match is None:
        raise typer.BadParameter(f"--older-than: {output.make_safe(age)!r} is not an age such as 12h, 90d, 8w or 2y")
    return int(match[1]) * _UNITS[match[2]]
