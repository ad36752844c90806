"""`verify` and `audit checkpoint`: that the history is the one that was written, and the signed list that proves it later."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from convokit import Convokit
from convokit.cli import options
from convokit.cli.connect import Place, existing_chat, opened
from convokit.cli.output import bar, note, one_line, out, print_json
from convokit.domain.verification import Verified
from convokit.errors import ChainBroken, SettingsError

audit = typer.Typer(
    cls=TyperGroup, help="Make checkpoints to verify against.", no_args_is_help=True, rich_markup_mode=None
)
All = Annotated[bool, typer.Option("--all", help="Every conversation of the tenant.")]
Against = Annotated[
    Path | None,
    typer.Option("--against", metavar="FILE", help="A checkpoint; shows what was cut off, too.", show_default=False),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="Holds the secret of the checkpoint.", show_default=False),
]
_MOST_KEY_BYTES = 64 * 1024


def verify(
    conversation: options.Conversation = None,
    *,
    all_: All = False,
    against: Against = None,
    key_file: KeyFile = None,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Check that a conversation's history is the one that was written, or that of all of them.

    Exits with 1 where it is not, and names the first place that differs.
    """
    if all_ and conversation is not None:
        raise typer.BadParameter("name a conversation or --all, not both")
    if (against is None) != (key_file is None):
        raise typer.BadParameter("--against and --key-file belong together")
    held = {} if against is None or key_file is None else {"against": against, "key": _key(key_file)}
    with opened(Place(database, tenant)) as kit:
        if all_:
            _verify_all(kit, held, json=json)
        else:
            _verify_one(kit, conversation, held, json=json)


def _verify_one(kit: Convokit, conversation: str | None, held: dict[str, Any], *, json: bool) -> None:
    try:
        found: Verified = existing_chat(kit, conversation).verify(**held)
    except ChainBroken as error:
        if json:
            print_json({"ok": False, **_place(error)})
        raise
    if json:
        print_json({"ok": True, **found.model_dump(mode="json")})
    else:
        out().print(f"whole: {found.entries:,} entries, {found.rows:,} rows; head {found.head}")


def _verify_all(kit: Convokit, held: dict[str, Any], *, json: bool) -> None:
    broken: list[dict[str, Any]] = []

    def tell(error: ChainBroken) -> None:
        if json:
            broken.append({**_place(error), "problem": str(error)})
        else:
            out().print(f"broken: {one_line(str(error), 2000)}")

    with bar("verifying") as progress:
        found = kit.verify(**held, broken=tell, progress=progress)
    if json:
        print_json({"ok": not found.broken, **found.model_dump(mode="json", exclude={"broken"}), "broken": broken})
    else:
        whole = "whole" if not found.broken else f"{found.broken:,} broken"
        counts = f"{found.conversations:,} conversations, {found.entries:,} entries, {found.rows:,} rows"
        out().print(f"{whole}: {counts}")
    if found.broken:
        raise typer.Exit(1)


def _place(error: ChainBroken) -> dict[str, Any]:
    return {"conversation_id": error.conversation, "entry": error.entry, "ref": error.ref}


@audit.command()
def checkpoint(
    *,
    key_file: Annotated[
        Path, typer.Option("--key-file", metavar="FILE", help="Holds the secret to sign with: 16 bytes or more.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write it; else stdout.", show_default=False),
    ] = None,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Write a signed list of the heads of the tenant's conversations.

    Keep it, and the key, where nobody who can write the database can write: `verify --against` holds a history to it.
    """
    if json and output is None:
        raise typer.BadParameter("--json says what was written to a file: name it with --output")
    key = _key(key_file)
    with opened(Place(database, tenant)) as kit:
        made = kit.checkpoint(key=key, to=sys.stdout if output is None else output.expanduser())
    if json:
        print_json({"file": str(output), **made.model_dump(mode="json", exclude={"text"})})
        return
    note(f"{made.conversations:,} conversations, {made.entries:,} entries; signature {made.signature}")


def _key(path: Path) -> bytes:
    """Return the secret that a file holds, without the line end behind it. Raises: SettingsError."""
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(_MOST_KEY_BYTES + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise SettingsError("--key-file", f"{path} cannot be read ({said})") from None
    if len(data) > _MOST_KEY_BYTES:
        raise SettingsError("--key-file", f"{path} is too large to be a secret")
    return data.rstrip(b"\r\n")
