"""From options to a kit and a chat: who answers, which database, which conversation.

The command line never changes a schema unasked, but for one case: a SQLite file that was not there before this command is its
own to migrate.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import typer
from sqlalchemy.engine import URL

from convokit import Budget, Chat, Convokit
from convokit.cli.local_model import local_model
from convokit.cli.output import waiting
from convokit.errors import NotFound, SettingsError
from convokit.runtime.http_client import Client
from convokit.settings import Environment
from convokit.store.dialects import dialect_of_url
from convokit.store.engine import parse_database_url

LOCAL_REPLY_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Place:
    """Where conversations are kept: a database and a tenant in it."""

    database: str
    tenant: str = "default"

    @property
    def named(self) -> str | Path:
        """What names the database to a kit: anything that is no URL is a SQLite file's path."""
        return self.database if "://" in self.database else Path(self.database).expanduser()

    @property
    def url(self) -> URL:
        """The database's URL. Raises: SettingsError."""
        return parse_database_url(self.named)

    @property
    def is_new_file(self) -> bool:
        """Whether it is a SQLite file that is not there yet, in a folder that is."""
        file = dialect_of_url(self.url).file_of_url(self.url)
        # os.path: where nothing may be looked at, it says no instead of raising
        return file is not None and not os.path.exists(file) and os.path.isdir(os.path.dirname(file) or ".")


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers: a server and a model's name, or a model on this machine."""

    local: bool = False
    gguf: Path | None = None
    model: str | None = None
    base_url: str | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        for option, given in (("--model", self.model), ("--base-url", self.base_url), ("--profile", self.profile)):
            if self.local and given is not None:
                raise typer.BadParameter(f"{option} and --local exclude each other: --local brings model and server")

    @contextmanager
    def settings(self) -> Iterator[dict[str, Any]]:
        """Yield a kit's settings, while the local model runs if one was asked for."""
        if not self.local:
            given = {"model": self.model, "base_url": self.base_url, "profile": self.profile}
            yield {name: value for name, value in given.items() if value is not None}
            return
        with local_model(self.gguf) as running:
            yield {
                "model": running.model,
                "base_url": running.url,
                "api_key": running.api_key,
                "profile": "llama.cpp",
                "budget": Budget(context_tokens=running.context_tokens, reply_tokens=LOCAL_REPLY_TOKENS),
                "counter": running.counter,
                "max_output_tokens": LOCAL_REPLY_TOKENS,
            }


@contextmanager
def opened(place: Place, settings: dict[str, Any] | None = None, *, client: Client | None = None) -> Iterator[Convokit]:
    """Yield a kit on a database as it is. Raises: ConvokitError."""
    chosen: dict[str, Any] = dict(settings or {})
    with Convokit(place.named, tenant=place.tenant, http_client=client, **chosen) as kit:
        yield kit


@contextmanager
def opened_to_write(place: Place, settings: dict[str, Any], *, client: Client | None = None) -> Iterator[Convokit]:
    """Yield a kit, on a SQLite file that this command creates if it is not there. Raises: ConvokitError."""
    with opened(place, settings, client=client) as kit:
        if place.is_new_file:
            if "model" not in settings and Environment.read().model is None:
                raise SettingsError("model", "no model was named")  # before a file is left behind
            with waiting(f"creating {place.url.database}"):
                kit.migrate()
        yield kit


def existing_chat(kit: Convokit, name: str | None, **settings: Any) -> Chat:
    """Return the chat of an id, else of a key, else the one used last. Raises: NotFound."""
    if name is None:
        return latest_chat(kit, **settings)
    chat = kit.chat(name, **settings)
    if (id_ := _as_id(name)) is not None:
        by_id = kit.chat(id=id_, **settings)
        try:
            by_id.messages(limit=1)
            return by_id
        except NotFound:
            pass  # a key may look like an id too
    chat.messages(limit=1)
    return chat


def latest_chat(kit: Convokit, **settings: Any) -> Chat:
    """Return the tenant's chat that was used last. Raises: NotFound when there is none."""
    for conversation in kit.conversations(limit=1):
        return kit.chat(id=conversation.id, **settings)
    raise nothing_yet()


def nothing_yet() -> NotFound:
    """Return the error for a tenant that has no conversation."""
    return NotFound("conversation", "yet", "start one with `convokit chat`")


def _as_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
