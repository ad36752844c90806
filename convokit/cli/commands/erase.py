"""`redact`, `erase` and `purge`: removing for good. Each says first what would go, and asks before it goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import typer

from convokit.cli import options
from convokit.cli.connect import Place, existing_chat, opened
from convokit.cli.output import bar, note, one_line, out, print_json, safe, table
from convokit.domain.removal import Receipt

Removal = Callable[[bool], Receipt]
"""Removes, or only counts when told so."""
_AGE = re.compile(r"(\d{1,6}) ?([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}
_NAMES = {
    "message": "messages",
    "blob": "binary parts",
    "completion": "details and errors of API calls",
    "chunk": "pieces of replies",
    "turn": "errors of turns",
    "tool_call": "tool calls",
    "summary": "summaries",
    "prompt": "developer prompts and tool sets",
    "salt": "salts of digests",
    "conversation": "conversations' own values",
}
_BYTES = {
    "gone": "gone from the file and its log",
    "found": "still in the file, in something that is not convokit's",
    "pending": "still in the log, because somebody reads an older state: run it again later",
    "unchecked": "the file could not be looked into",
    "server": "on the server until VACUUM, and in its WAL and backups as long as those are kept",
}
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and write nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the history.", show_default=False),
]
Author = Annotated[
    str | None,
    typer.Option("--author", metavar="NAME", help="Who removes it; it is kept with the history.", show_default=False),
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        help="Those not used for so long: 12h, 90d, 8w, 2y.",
        show_default=False,
    ),
]


def redact(
    conversation: Annotated[str, typer.Argument(metavar="KEY-or-ID", help="The conversation.")],
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=1, help="The message's number.")],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    reason: Reason = None,
    author: Author = None,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Remove one message's text from everywhere; its place in the history stays."""
    with opened(Place(database, tenant)) as kit:
        chat = existing_chat(kit, conversation)
        _run(
            lambda dry: chat.redact(seq, reason=reason, author=author, dry_run=dry),
            f"message {seq} of {one_line(conversation)}",
            dry_run=dry_run,
            yes=yes,
            json=json,
        )


def erase(
    conversation: Annotated[
        str | None, typer.Argument(metavar="[KEY-or-ID]", help="The conversation.", show_default=False)
    ] = None,
    *,
    subject: Annotated[
        str | None, typer.Option("--subject", help="All of this person's conversations.", show_default=False)
    ] = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    reason: Reason = None,
    author: Author = None,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Remove every text of a conversation, of a person's, or of old ones.

    Empty messages stay for the history's proof; `purge` removes those too. Interrupted, it may be run again.
    """
    many = subject is not None or older_than is not None
    if (conversation is None) is not many:
        raise typer.BadParameter("name a conversation, or --subject or --older-than")
    age = _age(older_than)
    with opened(Place(database, tenant)) as kit:
        if conversation is not None:
            chat = existing_chat(kit, conversation)
            _run(
                lambda dry: chat.erase(reason=reason, author=author, dry_run=dry),
                one_line(conversation),
                dry_run=dry_run,
                yes=yes,
                json=json,
            )
            return

        def run(dry: bool) -> Receipt:
            with bar("counting" if dry else "erasing") as progress:
                return kit.erase(
                    subject=subject, older_than=age, reason=reason, author=author, dry_run=dry, progress=progress
                )

        which = [f"of {one_line(subject)}"] if subject is not None else []
        which += [f"not used for {older_than}"] if older_than is not None else []
        _run(run, f"all conversations {' '.join(which)}", dry_run=dry_run, yes=yes, json=json)


def purge(
    *,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Delete erased conversations altogether, with what is left of them for the proof."""
    age = _age(older_than)
    with opened(Place(database, tenant)) as kit:

        def run(dry: bool) -> Receipt:
            with bar("counting" if dry else "deleting") as progress:
                return kit.purge(older_than=age, dry_run=dry, progress=progress)

        _run(run, "all erased conversations", dry_run=dry_run, yes=yes, json=json)


def _run(remove: Removal, what: str, *, dry_run: bool, yes: bool, json: bool) -> None:
    if not dry_run and not yes:
        tried = remove(True)
        _describe(tried, what)
        if tried.conversations and not typer.confirm("This cannot be undone. Go on?", err=True):
            note("nothing was removed")
            raise typer.Exit(1)
    receipt = remove(dry_run)
    if json:
        print_json({**receipt.model_dump(mode="json"), "complete": receipt.complete})
    else:
        _print(receipt)
    if not receipt.complete:
        raise typer.Exit(1)


def _describe(tried: Receipt, what: str) -> None:
    messages = tried.removed.get("message", 0)
    verb = "delete" if tried.action == "purge" else tried.action
    size = f"{tried.conversations:,} conversations" if tried.conversations != 1 else "1 conversation"
    note(f"{verb} {what}: {size}" + (f", {messages:,} messages" if tried.action != "purge" else ""))


def _print(receipt: Receipt) -> None:
    console = out()
    if not receipt.removed:
        note("there is nothing to remove" if receipt.dry_run else "there was nothing left to remove")
    else:
        listing = table("would go" if receipt.dry_run else "removed", "rows", right=("rows",))
        for name, count in receipt.removed.items():
            listing.add_row("conversations" if receipt.action == "purge" else _NAMES.get(name, name), f"{count:,}")
        console.print(listing)
    if receipt.dry_run:
        return
    facts = {
        "conversations": f"{receipt.conversations:,}",
        "when": receipt.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "by": receipt.author,
        "explanation": receipt.reason,
        "rows read again": None if receipt.remaining is None else f"{receipt.remaining:,} still hold something",
        "history": receipt.chain,
        "bytes": _BYTES[receipt.bytes],
        "left alone": ", ".join(map(str, receipt.skipped)) + " (a turn is open)" if receipt.skipped else None,
    }
    for name, value in facts.items():
        if value is not None:
            console.print(f"{name + ':':<17}{one_line(value, 2000)}")


def _age(given: str | None) -> timedelta | None:
    if given is None:
        return None
    found = _AGE.fullmatch(given.strip())
    if found is None:
        raise typer.BadParameter(f"--older-than: {safe(given)!r} is not an age such as 12h, 90d, 8w or 2y")
    return int(found[1]) * _UNITS[found[2]]
