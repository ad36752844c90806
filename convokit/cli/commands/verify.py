"""Define `convokit verify`: check the hash chain of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import Connection

from convokit import Convokit, MovedHead, Verified
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit, read_database
from convokit.errors import ChainBroken, SettingsError
from convokit.store import conversations

_MAX_KEY_BYTES = 64 * 1024
_SHOWN_HEADS = 8


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

    Exits with 1 if a stored row differs from the chain, and names the first one. Also shows the branch heads, the number of
    messages on no branch, and with --against the branches whose head moved away. These are no faults: `checkout` and `edit`
    move heads too.
    """
    if all_ and conversation is not None:
        raise typer.BadParameter("name a conversation or --all, not both")
    if (against is None) != (key_file is None):
        raise typer.BadParameter("--against and --key-file require each other")
    checkpoint: dict[str, Any] = {}
    if against is not None and key_file is not None:
        checkpoint = {"against": against, "key": read_key_file(key_file)}
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
        if all_:
            _verify_all(kit, DatabaseOption(database, tenant), checkpoint, json=json)
        else:
            _verify_one(kit, DatabaseOption(database, tenant), conversation, checkpoint, json=json)


def _verify_one(
    kit: Convokit, database: DatabaseOption, conversation: str | None, checkpoint: dict[str, Any], *, json: bool
) -> None:
    try:
        chat = find_chat(kit, conversation)
        with output.show_progress("verifying") as progress:
            verified = chat.verify(**checkpoint, progress=progress)
    except ChainBroken as error:
        key = _find_keys(database, [UUID(error.conversation)])[0]
        if json:
            output.print_json({"ok": False, **_dump_position(error, key)})
        output.print_error(_describe(error, key))
        raise typer.Exit(1) from None
    if json:
        output.print_json({"ok": True, **verified.model_dump(mode="json")})
    else:
        output.get_console().print(f"whole: {verified.entries:,} entries, {verified.rows:,} rows; head {verified.head}")
        output.get_console().print(_describe_heads(verified))
        for each in verified.moved_heads:
            output.get_console().print(f"moved: {_describe_moved(each)}")


def _verify_all(kit: Convokit, database: DatabaseOption, checkpoint: dict[str, Any], *, json: bool) -> None:
    broken: list[dict[str, Any]] = []

    def add_broken(error: ChainBroken) -> None:
        key = _find_keys(database, [UUID(error.conversation)])[0]
        if json:
            broken.append({**_dump_position(error, key), "problem": str(error)})
        else:
            output.get_console().print(f"broken: {output.to_one_line(_describe(error, key), 2000)}")

    with output.show_progress("verifying") as progress:
        verified = kit.verify(**checkpoint, broken=add_broken, progress=progress)
    keys = _find_keys(database, [each.conversation_id for each in verified.moved_heads])
    moved = list(zip(verified.moved_heads, keys, strict=True))
    if json:
        counts = verified.model_dump(mode="json", exclude={"broken", "moved_heads"})
        heads = [{**each.model_dump(mode="json"), "key": key} for each, key in moved]
        output.print_json({"ok": not verified.broken, **counts, "moved_heads": heads, "broken": broken})
    else:
        result = f"{verified.broken:,} broken" if verified.broken else "whole"
        conversations, entries = f"{verified.conversations:,} conversations", f"{verified.entries:,} entries"
        detail = f"{verified.rows:,} rows; messages on no branch: {verified.unreachable_messages:,}"
        for each, key in moved:
            name = output.to_one_line(key or str(each.conversation_id))
            output.get_console().print(f"moved: {name}: {_describe_moved(each)}")
        output.get_console().print(f"{result}: {conversations}, {entries}, {detail}")
    if verified.broken:
        raise typer.Exit(1)


def _describe_heads(verified: Verified) -> str:
    """Return a line with the branch heads and the number of messages on no branch."""
    shown = list(verified.heads.items())[:_SHOWN_HEADS]
    heads = [f"{_name_branch(label)} {'is empty' if seq is None else f'at message {seq}'}" for label, seq in shown]
    if len(verified.heads) > len(shown):
        heads.append(f"{len(verified.heads) - len(shown):,} more")
    return f"heads: {', '.join(heads)}; messages on no branch: {verified.unreachable_messages:,}"


def _describe_moved(moved: MovedHead) -> str:
    now = "is empty or missing" if moved.seq is None else f"is at message {moved.seq}"
    return f"{_name_branch(moved.branch)} was at message {moved.checkpoint_seq} in the checkpoint, and {now}"


def _name_branch(label: str | int) -> str:
    return f"branch {label}" if isinstance(label, int) else output.to_one_line(label)


def _find_keys(database: DatabaseOption, ids: Sequence[UUID]) -> list[str | None]:
    """Return the key of each conversation; None if it has none, or is missing."""
    return read_database(database, partial(_read_keys, database.tenant, ids)) if ids else []


def _read_keys(tenant: str, ids: Sequence[UUID], connection: Connection) -> list[str | None]:
    rows = (conversations.find(connection, tenant, each) for each in ids)
    return [None if row is None else row.key for row in rows]


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
