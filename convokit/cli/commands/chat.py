"""Define `convokit chat`: ask one question, or run the interactive chat.

The command stores the model and the developer prompt with the conversation. Request parameters apply to this command only.
"""

from __future__ import annotations

import shlex
import sys
from json import loads
from typing import Annotated, Any

import typer

from convokit import Chat, Convokit
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, ModelSource, find_latest_chat, no_conversation_error, open_kit
from convokit.cli.interrupts import InterruptGuard, InterruptibleClient
from convokit.cli.invocation import find_convokit
from convokit.cli.repl import run_repl
from convokit.cli.session import ChatSession, dump_reply
from convokit.domain.params import RequestParams, validate_params
from convokit.errors import InvalidInput, SettingsError
from convokit.settings import Environment


def chat(
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="Question; default: stdin, or the interactive chat.")
    ] = None,
    *,
    local: shared_options.Local = False,
    gguf: shared_options.Gguf = None,
    model: shared_options.Model = None,
    base_url: shared_options.BaseUrl = None,
    profile: shared_options.Profile = None,
    developer_prompt: shared_options.DeveloperPrompt = None,
    key: Annotated[
        str | None, typer.Option("--key", "-k", metavar="KEY", help="Key of the conversation to create or continue.")
    ] = None,
    resume: Annotated[bool, typer.Option("--continue", "-c", help="Continue the conversation used last.")] = False,
    max_output_tokens: Annotated[
        int | None, typer.Option("--max-output-tokens", metavar="N", help="Length limit of the reply.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="X", help="Sampling temperature, from 0 to 2.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-o", metavar="NAME=VALUE", help="Request parameter, with a JSON value."),
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Request the reply as a whole.")] = False,
    usage: Annotated[
        bool, typer.Option("--usage", help="Show the tokens of each reply and how many came from the cache.")
    ] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Chat with a model and store every turn. In a terminal without TEXT, start an interactive chat."""
    if key is not None and resume:
        raise typer.BadParameter("--key and --continue exclude each other")
    source, target = ModelSource(local, gguf, model, base_url, profile), DatabaseOption(database, tenant)
    params = _parse_params(param or [], max_output_tokens=max_output_tokens, temperature=temperature)
    question = _read_question(text, json=json)
    if resume:
        _check_latest_chat(target)
    guard = InterruptGuard()
    with source.serve() as settings, open_kit(target, http_client=InterruptibleClient(guard), **settings) as kit:
        if target.is_new_file:
            _create_file(kit, target, settings)
        stored = _drop_missing(model=settings.get("model"), developer_prompt=developer_prompt)
        session = ChatSession(
            kit,
            _find_chat(kit, key, resume=resume, settings=stored),
            guard,
            stored,
            params,
            stream=not no_stream,
            quiet=json,
            usage=usage,
        )
        reply = None
        if question is None:
            run_repl(session)
        else:
            reply = session.ask(question)
        if json and reply is not None and session.chat is not None:
            output.print_json(dump_reply(session.chat, reply))
        if key is None and not json and session.chat is not None:
            output.print_note(f"continue with: {_format_continue_command(source, target)}")
    if guard.is_terminated or (question is not None and reply is None):
        raise typer.Exit(guard.exit_code)


def _parse_params(pairs: list[str], **given: Any) -> RequestParams:
    """Return the request parameters of the options. Raises: SettingsError when one is unknown or has a wrong value."""
    params = _drop_missing(**given)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--param")
        try:
            params[name] = loads(value)
        except ValueError:  # plain text needs no quotes: -o stop=END
            params[name] = value
    return validate_params(params)


def _drop_missing(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read_question(text: str | None, *, json: bool) -> str | None:
    """Return TEXT or stdin, or None for the interactive chat. Raises: InvalidInput when stdin is not text."""
    if text is not None:
        return text
    if sys.stdin.isatty():
        if not json and sys.stdout.isatty():
            return None
        output.print_note("type the question, end it with Ctrl-D")
    data = sys.stdin.buffer.read()
    if not data.strip():
        raise InvalidInput(
            "TEXT", "is missing: write the question behind the command, or run the command in a terminal"
        )
    try:
        return data.decode(sys.stdin.encoding or "utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InvalidInput("stdin", f"byte {error.start} is not valid {error.encoding} text") from None


def _check_latest_chat(target: DatabaseOption) -> None:
    """Raise NotFound if there is no conversation, before a model is started or a file created."""
    if target.is_new_file:
        raise no_conversation_error()
    with open_kit(target) as kit:
        find_latest_chat(kit)


def _create_file(kit: Convokit, target: DatabaseOption, settings: dict[str, Any]) -> None:
    # The first turn would fail without a model, and leave the new file behind.
    if "model" not in settings and Environment.read().model is None:
        raise SettingsError("model", "no model was given")
    with output.show_spinner(f"creating {target.url.database}"):
        kit.migrate()


def _find_chat(kit: Convokit, key: str | None, *, resume: bool, settings: dict[str, Any]) -> Chat | None:
    """Return the chat to continue, or None if the first question starts a new one."""
    if resume:
        return find_latest_chat(kit, **settings)
    return None if key is None else kit.chat(key, **settings)


def _format_continue_command(source: ModelSource, target: DatabaseOption) -> str:
    command = [*find_convokit(), "chat"]
    if source.local:
        command += ["--local", *([str(source.gguf)] if source.gguf is not None else [])]
    for option, value in (("--base-url", source.base_url), ("--profile", source.profile)):
        command += [option, value] if value is not None else []
    command.append("--continue")
    if target.name not in (shared_options.DEFAULT_DATABASE, Environment.read().database_url):
        # The rendered URL hides the password.
        command += ["-d", target.name if "://" not in target.name else target.url.render_as_string()]
    if target.tenant != "default":
        command += ["--tenant", target.tenant]
    return shlex.join(command)
