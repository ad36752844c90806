"""Define `convokit view`: look at conversations in the browser."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from typing import Annotated, Any

import typer
from rich.text import Text

from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit
from convokit.cli.gateway_extra import import_viewer
from convokit.store.engine import describe_url

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; default: any that is free.")]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Only print the link, and open no browser.")]


def view(
    *,
    port: Port = 0,
    no_open: NoOpen = False,
    model: shared_options.Model = None,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Look at conversations in the browser: read, search, audit and follow them.

    It prints a link that works once, on this machine, and opens it. Nothing is written to the database. Ctrl-C ends it.
    --model names the model of the page that shows a next request.
    """
    sign_in, viewer_process = import_viewer()
    target = DatabaseOption(database, tenant)
    settings: dict[str, Any] = {} if model is None else {"model": model}
    with open_kit(target, read_only=True, **settings) as kit:
        kit.conversations(limit=1)  # it checks that the database is there, and the revision of its tables
    listener = viewer_process.open_listener(port)
    with listener:
        port = listener.getsockname()[1]
        access = sign_in.OneTimeLink(viewer_process.find_viewer(tenant), port)
        link = f"http://127.0.0.1:{port}/-/in?token={access.token}"
        console = output.get_console()
        facts = {"database": describe_url(target.url), "tenant": tenant}
        for name, value in facts.items():
            line = Text(f"{name:<9} ", style="bold").append(output.to_one_line(value), style="not bold")
            output.print_wrapped(console, line)
        console.print(Text("open      ", style="bold").append(link, style="not bold cyan"), soft_wrap=True)
        output.print_note("the link works once; Ctrl-C ends the viewer")
        if not no_open and _has_browser():
            _open(link)
        viewer_process.run_viewer(target.url_or_path, tenant, settings, listener, access)
    output.print_note("the viewer has ended")


def _has_browser() -> bool:
    """Return whether a browser would appear in front of the user: not over SSH, and not without a screen."""
    if "SSH_CONNECTION" in os.environ or not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(link: str) -> None:
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(link)
