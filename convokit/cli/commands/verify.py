"""Define `convokit verify`: check the hash chain of conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convokit import Convokit
from convokit.cli import options, output
from convokit.cli.connect import Database, find_chat, open_kit
from convokit.errors import ChainBroken, SettingsError

_MAX_KEY_BYTES = 64 * 1024


def verify(
    conversation: options.Conversation = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Check every conversation of the tenant.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="Checkpoint to compare with; also detects deleted entries and conversations.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="File with the checkpoint's secret.")
    ] = None,
    json: options.Json = False,
    database: options.DatabaseUrl = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Check the hash chain of one or all conversations.

    Exits with 1 if a stored row differs from the chain, and names the first one.
    """
    if all_ and conversation is not None:
        raise typer.BadParameter("name a conversation or --all, not both")
    if (against is None) != (key_file is None):
        raise typer.BadParameter("--against and --key-file require each other")
    checkpoint: dict[str, Any] = {}
    if against is not None and key_file is not None:
        checkpoint = {"against": against, "key": read_key_file(key_file)}
    with open_kit(Database(database, tenant)) as kit:
        if all_:
            _verify_all(kit, checkpoint, json=json)
        else:
            _verify_one(kit, conversation, checkpoint, json=json)


def _verify_one(kit: Convokit, conversation: str | None, checkpoint: dict[str, Any], *, json: bool) -> None:
    try:
        verified = find_chat(kit, conversation).verify(**checkpoint)
    except ChainBroken as error:
        if json:
            output.print_json({"ok": False, **_dump_position(error)})
        raise
    if json:
        output.print_json({"ok": True, **verified.model_dump(mode="json")})
    else:
        output.get_console().print(f"whole: {verified.entries:,} entries, {verified.rows:,} rows; head {verified.head}")


def _verify_all(kit: Convokit, checkpoint: dict[str, Any], *, json: bool) -> None:
    broken: list[dict[str, Any]] = []

    def add_broken(error: ChainBroken) -> None:
        if json:
            broken.append({**_dump_position(error), "problem": str(error)})
        else:
            output.get_console().print(f"broken: {output.to_one_line(str(error), 2000)}")

    with output.show_progress("verifying") as progress:
        verified = kit.verify(**checkpoint, broken=add_broken, progress=progress)
    if json:
        counts = verified.model_dump(mode="json", exclude={"broken"})
        output.print_json({"ok": not verified.broken, **counts, "broken": broken})
    else:
        result = f"{verified.broken:,} broken" if verified.broken else "whole"
        conversations, entries = f"{verified.conversations:,} conversations", f"{verified.entries:,} entries"
        output.get_console().print(f"{result}: {conversations}, {entries}, {verified.rows:,} rows")
    if verified.broken:
        raise typer.Exit(1)


def _dump_position(error: ChainBroken) -> dict[str, Any]:
    return {"conversation_id": error.conversation, "entry": error.entry, "ref": error.ref}


def read_key_file(path: Path) -> bytes:
    """Return the secret in a file, without the line end. Raises: SettingsError."""
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise SettingsError("--key-file", f"cannot read {path}: {reason}") from None
    if len(data) > _MAX_KEY_BYTES:
        raise SettingsError("--key-file", f"{path} is larger than {_MAX_KEY_BYTES:,} bytes, too large for a secret")
    return data.rstrip(b"\r\n")
