"""Define `convokit verify`: check the hash chain of conversations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import Connection

from convokit import Convokit
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit, read_database
from convokit.domain.conversation import ConversationRow
from convokit.errors import ChainBroken, SettingsError
from convokit.store import conversations

_MAX_KEY_BYTES = 64 * 1024


def verify(
    conversation: shared_options.Conversation = None,
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
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
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
    with open_kit(DatabaseOption(database, tenant)) as kit:
        if all_:
            _verify_all(kit, DatabaseOption(database, tenant), checkpoint, json=json)
        else:
            _verify_one(kit, DatabaseOption(database, tenant), conversation, checkpoint, json=json)


def _verify_one(
    kit: Convokit, database: DatabaseOption, conversation: str | None, checkpoint: dict[str, Any], *, json: bool
) -> None:
    try:
        verified = find_chat(kit, conversation).verify(**checkpoint)
    except ChainBroken as error:
        key = _find_key(database, error)
        if json:
            output.print_json({"ok": False, **_dump_position(error, key)})
        output.print_error(_describe(error, key))
        raise typer.Exit(1) from None
    if json:
        output.print_json({"ok": True, **verified.model_dump(mode="json")})
    else:
        output.get_console().print(f"whole: {verified.entries:,} entries, {verified.rows:,} rows; head {verified.head}")


def _verify_all(kit: Convokit, database: DatabaseOption, checkpoint: dict[str, Any], *, json: bool) -> None:
    broken: list[dict[str, Any]] = []

    def add_broken(error: ChainBroken) -> None:
        key = _find_key(database, error)
        if json:
            broken.append({**_dump_position(error, key), "problem": str(error)})
        else:
            output.get_console().print(f"broken: {output.to_one_line(_describe(error, key), 2000)}")

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


def _find_key(database: DatabaseOption, error: ChainBroken) -> str | None:
    """Return the key of a conversation; None if it has none, or is missing."""
    found = read_database(database, partial(_find_conversation, database.tenant, UUID(error.conversation)))
    return None if found is None else found.key


def _find_conversation(tenant: str, conversation_id: UUID, connection: Connection) -> ConversationRow | None:
    return conversations.find(connection, tenant, conversation_id)


def _describe(error: ChainBroken, key: str | None) -> str:
    """Return the message of the error, with the key of the conversation instead of its id where there is one."""
    return str(error) if key is None else str(error).replace(error.conversation, key, 1)


def _dump_position(error: ChainBroken, key: str | None) -> dict[str, Any]:
    return {"conversation_id": error.conversation, "key": key, "entry": error.entry, "ref": error.ref}


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
