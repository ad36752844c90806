"""Open the database, kit and chat that a command names."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import typer
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from convokit import Chat, Convokit
from convokit._files import is_readable_by_others
from convokit.cli import output
from convokit.cli.invocation import format_command
from convokit.errors import NotFound
from convokit.local import serve
from convokit.runtime.sync_store import open_store
from convokit.store.dialects import dialect_of_url
from convokit.store.engine import describe_url, parse_database_url

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DatabaseOption:
    """A database, as `--database` names it, and a tenant in it."""

    name: str
    tenant: str = "default"

    @property
    def url_or_path(self) -> str | Path:
        """The name as a kit takes it: a URL, or the path of a SQLite file."""
        return self.name if "://" in self.name else Path(self.name).expanduser()

    @property
    def url(self) -> URL:
        """The database's URL. Raises: SettingsError."""
        return parse_database_url(self.url_or_path)

    @property
    def is_new_file(self) -> bool:
        """True for a SQLite file that does not exist yet in a folder that does."""
        file = dialect_of_url(self.url).file_of_url(self.url)
        # os.path returns False for a folder without read permission; Path.exists raises there.
        return file is not None and not os.path.exists(file) and os.path.isdir(os.path.dirname(file) or ".")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The model that a command uses: one of a server, or with `local` one on this machine."""

    local: bool = False
    gguf: Path | None = None
    model: str | None = None
    base_url: str | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        for option, value in (("--model", self.model), ("--base-url", self.base_url), ("--profile", self.profile)):
            if self.local and value is not None:
                raise typer.BadParameter(f"{option} and --local exclude each other: --local sets model and server")

    @contextmanager
    def serve(self) -> Iterator[dict[str, Any]]:
        """Yield the model's settings for a kit. A local model runs until the block ends."""
        if not self.local:
            settings = {"model": self.model, "base_url": self.base_url, "profile": self.profile}
            yield {name: value for name, value in settings.items() if value is not None}
            return
        with ExitStack() as stack:
            with output.show_spinner("starting the local model"):
                served = stack.enter_context(serve(self.gguf))
            yield served.settings


def open_kit(database: DatabaseOption, **settings: Any) -> Convokit:
    """Return a kit on a database and tenant. Raises: SettingsError."""
    return Convokit(database.url_or_path, tenant=database.tenant, **settings)


def find_chat(kit: Convokit, name: str | None, **settings: Any) -> Chat:
    """Return the chat with this id or key, or the one used last. An id wins over an equal key. Raises: NotFound."""
    if name is None:
        return find_latest_chat(kit, **settings)
    if (id_ := _parse_uuid(name)) is not None and kit.conversation(id=id_) is not None:  # a key may look like an id
        return kit.chat(id=id_, **settings)
    chat = kit.chat(name, **settings)
    if not chat.branches(limit=1):  # it also sets the chat's id
        raise NotFound("conversation", name, "it is created by its first send")
    return chat


def find_latest_chat(kit: Convokit, **settings: Any) -> Chat:
    """Return the tenant's chat that was used last. Raises: NotFound when the tenant has none."""
    for conversation in kit.conversations(limit=1):
        return kit.chat(id=conversation.id, **settings)
    raise no_conversation_error()


def no_conversation_error() -> NotFound:
    """Return the error for a tenant without conversations."""
    return NotFound("conversation", "yet", f"start one with `{format_command('chat')}`")


def _parse_uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def warn_if_readable(path: Path) -> None:
    """Print a warning if every user of this machine can read a file that holds a secret or stored text."""
    if is_readable_by_others(path):
        output.print_warning(f"every user of this machine can read {path}: run `chmod 600 {shlex.quote(str(path))}`")


def read_database(
    database: DatabaseOption, function: Callable[[Connection], Result], *, read_only: bool = True
) -> Result:
    """Run a function in a read transaction, over all tenants. Raises: StoreError, SettingsError.

    Args:
        read_only: Whether the database refuses writes. False opens it as a kit that writes does.
    """
    store = open_store(database.url, describe_url(database.url), read_only=read_only)
    try:
        return store.run(function, write=False)
    finally:
        store.close()


def write_database(database: DatabaseOption, function: Callable[[Connection], Result]) -> Result:
    """Run a function in a writing transaction, over all tenants. Raises: StoreError, SettingsError."""
    store = open_store(database.url, describe_url(database.url))
    try:
        return store.run(function, write=True)
    finally:
        store.close()
