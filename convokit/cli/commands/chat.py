"""`chat`: one question from the arguments or a pipe, or a talk in a terminal.

A model and a developer prompt named here are stored with the conversation, so that `--continue` goes on with them; parameters
hold for this command only.
"""

from __future__ import annotations

import json as jsons
import shlex
import sys
from typing import Annotated, Any

import typer

from convokit import Chat, Convokit
from convokit.cli import options
from convokit.cli.connect import Answering, Place, latest_chat, nothing_yet, opened, opened_to_write
from convokit.cli.output import fitted, note, print_json
from convokit.cli.repl import Interrupts, Replies, StoppableClient, as_json, talk
from convokit.domain.params import RequestParams, validate_params
from convokit.errors import InvalidInput
from convokit.settings import Environment

_STOPPED = 130
_TITLE_CELLS = 60


def chat(
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="The question; without it, stdin or a talk.", show_default=False),
    ] = None,
    *,
    local: options.Local = False,
    gguf: options.Gguf = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    profile: options.Profile = None,
    developer_prompt: options.DeveloperPrompt = None,
    key: Annotated[
        str | None,
        typer.Option("--key", "-k", metavar="KEY", help="The conversation's key: made or resumed.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the conversation used last.")] = False,
    max_output_tokens: Annotated[
        int | None, typer.Option("--max-output-tokens", metavar="N", help="The longest reply.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="X", help="From 0 to 2.", show_default=False)
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-o", metavar="NAME=VALUE", help="Any request parameter (JSON).", show_default=False),
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Wait for the whole reply.")] = False,
    usage: Annotated[
        bool, typer.Option("--usage", help="Say what each reply took, and how much came from cache.")
    ] = False,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Chat with a model; every turn is saved. Without TEXT in a terminal, talk."""
    if key is not None and resume:
        raise typer.BadParameter("--key and --continue exclude each other")
    source, place = Answering(local, gguf, model, base_url, profile), Place(database, tenant)
    params = _params(param or [], max_output_tokens=max_output_tokens, temperature=temperature)
    question = _question(text, json=json)
    if resume:
        _require_one(place)
    interrupts = Interrupts()
    client = StoppableClient(interrupts)
    with source.settings() as settings, opened_to_write(place, settings, client=client) as kit:
        named = _given(model=settings.get("model"), developer_prompt=developer_prompt)
        replies = Replies(
            _begun(kit, key, resume=resume, named=named),
            lambda first: kit.chat(title=fitted(first, _TITLE_CELLS).plain or None, **named),
            interrupts,
            params,
            stream=not no_stream,
            quiet=json,
            usage=usage,
        )
        if question is None:
            talk(replies)
        stopped = question is not None and not _once(replies, question)
        if key is None and not json and replies.chat is not None:
            note(f"continue with: {_again(source, place)}")
    if stopped:
        raise typer.Exit(_STOPPED)


def _question(text: str | None, *, json: bool) -> str | None:
    """Return what to ask, or None for a talk: in a terminal, when nothing was said and no program reads."""
    if text is not None:
        return text
    if not json and sys.stdin.isatty() and sys.stdout.isatty():
        return None
    return _piped()


def _once(replies: Replies, question: str) -> bool:
    """Ask one question. Return whether the reply came to its end."""
    reply = replies.ask(question)
    if reply is not None and replies.quiet and replies.chat is not None:
        print_json(as_json(replies.chat, reply))
    return reply is not None


def _begun(kit: Convokit, key: str | None, *, resume: bool, named: dict[str, Any]) -> Chat | None:
    """Return the chat to go on with; None when the first question begins a new one."""
    if resume:
        return latest_chat(kit, **named)
    return None if key is None else kit.chat(key, **named)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _require_one(place: Place) -> None:
    """Raise: NotFound when there is nothing to go on with, before a model is started or a file made for it."""
    if place.is_new_file:
        raise nothing_yet()
    with opened(place) as kit:
        latest_chat(kit)


def _params(pairs: list[str], **given: Any) -> RequestParams:
    """Return the request parameters of the options. Raises: SettingsError naming the first that is wrong."""
    values = _given(**given)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--param")
        try:
            values[name] = jsons.loads(value)
        except ValueError:
            values[name] = value
    return validate_params(values)


def _piped() -> str:
    """Return what stdin holds. Raises: InvalidInput when it is not text."""
    if sys.stdin.isatty():
        note("type the question, end it with Ctrl-D")
    data = sys.stdin.buffer.read()
    try:
        return data.decode(sys.stdin.encoding or "utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InvalidInput("stdin", f"is not {error.encoding} text: byte {error.start} cannot be read") from None


def _again(source: Answering, place: Place) -> str:
    """Return the command that goes on with this conversation."""
    words = ["convokit", "chat"]
    if source.local:
        words += ["--local", *([str(source.gguf)] if source.gguf is not None else [])]
    for option, value in (("--base-url", source.base_url), ("--profile", source.profile)):
        words += [option, value] if value is not None else []
    words.append("--continue")
    if place.database not in (options.DEFAULT_DATABASE, Environment.read().database_url):
        shown = place.database if "://" not in place.database else place.url.render_as_string()
        words += ["-d", shown]
    if place.tenant != "default":
        words += ["--tenant", place.tenant]
    return shlex.join(words)
