"""Define `convokit serve`: the gateway for clients of OpenAI's API."""

from __future__ import annotations

import ipaddress
import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, ModelSource, open_kit, read_database, warn_if_readable
from convokit.cli.gateway_extra import import_gateway
from convokit.cli.invocation import format_command
from convokit.domain.message import USER
from convokit.domain.profiles import DEFAULT_BASE_URL
from convokit.errors import SettingsError
from convokit.settings import Environment
from convokit.store.engine import describe_url
from convokit.store.keys import has_keys

_DEMO_MODEL = "demo"
_DEMO_QUESTION = "My name is Hanako."
_DEMO_SECOND_QUESTION = "What did I say?"


Demo = Annotated[bool, typer.Option("--demo", help="Serve a scripted model, and print what to try. It needs no key.")]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration: upstreams, models, limits.")
]
Host = Annotated[
    str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; default: 127.0.0.1.")
]
Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on, 0 for any; default: 8000.")
]
Upstream = Annotated[
    str | None,
    typer.Option(
        "--upstream", metavar="URL", help="Server that has the models; default: OPENAI_BASE_URL, else OpenAI."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="NAME", help="Model that clients may ask for, repeatable; default: all."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=256, help="Number of processes; default: 1.")]
RequireKeys = Annotated[
    bool,
    typer.Option("--require-keys", help="Refuse requests without an API key, even if the database has no key."),
]
TrustedProxies = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-proxy", metavar="ADDRESS", help="Proxy whose X-Forwarded headers are believed, repeatable."
    ),
]
DrainTimeout = Annotated[
    float | None,
    typer.Option(
        "--drain-timeout", min=0, metavar="SECONDS", help="Time for running turns after SIGTERM; default: 30."
    ),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option("--log-level", help="Lowest level of the log on stderr; default: info, which has every request."),
]
NoViewer = Annotated[bool, typer.Option("--no-viewer", help="Do not serve the pages of `convokit view` under /view.")]
ServedDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="URL",
        envvar="CONVOKIT_DATABASE_URL",
        help="Database: a SQLAlchemy URL or the path of a SQLite file (default: convokit.db).",
    ),
]


def serve(
    *,
    local: shared_options.Local = False,
    gguf: shared_options.Gguf = None,
    demo: Demo = False,
    config: Config = None,
    host: Host = None,
    port: Port = None,
    upstream: Upstream = None,
    profile: shared_options.Profile = None,
    model: Models = None,
    workers: Workers = None,
    require_keys: RequireKeys = False,
    trusted_proxy: TrustedProxies = None,
    drain_timeout: DrainTimeout = None,
    log_level: LogLevel = None,
    no_viewer: NoViewer = False,
    database: ServedDatabase = None,
) -> None:
    """Serve conversations to any client of OpenAI's API.

    Clients set their base URL to http://127.0.0.1:8000/v1. Only this machine can connect until the database has an API key.
    Ctrl-C or SIGTERM ends the server when its running turns have ended; a second one stops them.
    """
    _check_exclusive(demo=demo, local=local, upstream=upstream, model=model, profile=profile, config=config)
    given = _drop_missing(
        host=host,
        port=port,
        database=database,
        workers=workers,
        require_keys=require_keys or None,
        trusted_proxies=trusted_proxy or None,
        drain_timeout_s=drain_timeout,
        log_level=log_level,
        viewer=False if no_viewer else None,
        upstreams={"default": _drop_missing(base_url=upstream, profile=profile)} if upstream or profile else None,
        models={name: {} for name in model} if model else None,
    )
    config_file, server_process, demo_model = import_gateway()
    with ExitStack() as stack:
        if demo:
            url = stack.enter_context(demo_model.make_demo_model().serve())
            given["upstreams"] = {"default": {"base_url": url, "api_key": "demo", "default_model": _DEMO_MODEL}}
        elif local:
            given["upstreams"] = {"default": stack.enter_context(_serve_local_model(gguf))}
        if demo and database is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convokit-demo-"))
            given["database"] = str(Path(folder) / "demo.db")
        settings = config_file.read_config(config, given)
        if config is not None and any(each.api_key for each in settings.upstreams.values()):
            warn_if_readable(config)
        if not settings.upstreams:
            _check_environment()
        target = DatabaseOption(settings.database)
        needs_keys = _prepare_database(target) or settings.require_keys
        if not needs_keys:
            _check_reachable_only_here(settings.host, settings.trusted_proxies)
        listener = stack.enter_context(server_process.open_listener(settings.host, settings.port))
        address = _format_address(settings.host, listener.getsockname()[1])
        settings = settings.model_copy(update={"require_keys": needs_keys})
        _print_start(address, target, settings, "a scripted model" if demo else None)
        if demo:
            _print_demo(address, keeps_file=database is not None, needs_keys=needs_keys)
        code = server_process.run_server(settings, listener)
    output.print_note("the server has ended")
    if code:
        raise typer.Exit(code)


def _drop_missing(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _check_exclusive(**given: Any) -> None:
    chosen = [f"--{name}" for name, value in given.items() if value]
    for name in ("--demo", "--local"):
        if name in chosen and len(chosen) > 1:
            others = " and ".join(each for each in chosen if each != name)
            raise typer.BadParameter(f"{others} cannot be used with {name}, which sets the model and its server")


@contextmanager
def _serve_local_model(gguf: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the upstream of a model on this machine. Workers reach it by its URL."""
    with ModelSource(local=True, gguf=gguf).serve() as settings:
        yield {
            **{name: settings[name] for name in ("base_url", "api_key", "profile")},
            "default_model": settings["model"],
            "context_tokens": settings["budget"].context_tokens,
            "reply_tokens": settings["budget"].reply_tokens,
            "has_tokenizer": True,
        }


def _check_environment() -> None:
    environment = Environment.read()
    if environment.api_key is None and environment.base_url is None:
        problem = "no server was given: export OPENAI_API_KEY, or name a server with --upstream or OPENAI_BASE_URL"
        raise SettingsError("upstream", f"{problem}; `{format_command('serve', '--demo')}` needs neither")


def _prepare_database(target: DatabaseOption) -> bool:
    """Create a SQLite file that does not exist, check the tables, and return whether there are API keys."""
    with open_kit(target) as kit:
        if target.is_new_file:
            with output.show_spinner(f"creating {target.url.database}"):
                kit.migrate()
        kit.conversations(limit=1)  # it checks the revision of the tables
    return read_database(target, has_keys)


def _check_reachable_only_here(host: str, proxies: list[str]) -> None:
    """Raise SettingsError if others can reach a server that asks for no key."""
    advice = f"run `{format_command('keys', 'create', 'NAME')}` first, or pass --require-keys"
    if not _is_loopback(host):
        raise SettingsError("host", f"the database has no API key, so everyone who reaches {host} could chat: {advice}")
    if proxies:
        raise SettingsError(
            "trusted-proxy", f"the database has no API key, so every user of the proxy could chat: {advice}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _format_address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_start(address: str, target: DatabaseOption, settings: Any, server: str | None) -> None:
    own = Environment.read().base_url or DEFAULT_BASE_URL
    upstreams = [each.base_url or own for each in settings.upstreams.values()] or [own]
    keys = "required" if settings.require_keys else "not required: only this machine can connect"
    facts: Mapping[str, str] = {
        "base URL": f"{address}/v1",
        **({"viewer": f"{address}/view"} if settings.viewer else {}),
        "database": describe_url(target.url),
        "upstream": server or ", ".join(upstreams),
        "models": ", ".join(settings.models) or "all of the upstream",
        "API keys": keys,
        **({"workers": str(settings.workers)} if settings.workers > 1 else {}),
    }
    console = output.get_console()
    for name, value in facts.items():
        output.print_wrapped(
            console, Text(f"{name:<9} ", style="bold").append(output.to_one_line(value), style="not bold")
        )


def _print_demo(address: str, *, keeps_file: bool, needs_keys: bool) -> None:
    """Print commands that work as they are pasted. The same conversation continues in each."""
    console = output.get_console()
    base = f"{address}/c/hanako/v1"
    header = {"X-Conversation-Mode": "append"}
    body = json.dumps({"model": _DEMO_MODEL, "messages": [{"role": USER, "content": _DEMO_QUESTION}]})
    curl = [
        "curl",
        f"{base}/chat/completions",
        "-H",
        "Content-Type: application/json",
        "-H",
        "X-Conversation-Mode: append",
    ]
    message = json.dumps([{"role": USER, "content": _DEMO_SECOND_QUESTION}])
    python = f"""\
from openai import OpenAI
client = OpenAI(base_url="{base}", api_key="none", default_headers={json.dumps(header)})
reply = client.chat.completions.create(model="{_DEMO_MODEL}", messages={message})
print(reply.choices[0].message.content)"""
    for heading, lines in (
        ("Try it with curl:", shlex.join([*curl, "-d", body])),
        ("Or in Python (pip install openai):", python),
    ):
        console.print()
        console.print(Text(heading, style="bold"))
        console.print(Text(lines, style="cyan"), soft_wrap=True)  # a copied line must not contain line breaks
    console.print()
    if needs_keys:
        note = "The database has API keys: write one in place of none, and add -H 'Authorization: Bearer KEY' to curl."
        output.print_wrapped(console, Text(note, style="bold"))
    end = "The conversation goes on each time you run one of them."
    if not keeps_file:
        end += (
            f" It is deleted with the demo; `{format_command('serve', '--demo', '-d', 'demo.db')}` keeps it in a file."
        )
    output.print_wrapped(console, Text(end, style="dim"))
