"""Writes docs/reference from docstrings and from the tables: `python -m tests.docs.generate`.

Output depends on the source alone, so a test can hold the pages to it. What is public, and on which page it stands, is said
here; the words are those of the code.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import convokit
from convokit.completion.options import CallOptions
from convokit.domain import params
from tests.docs import commands, datamodel, render
from tests.docs.pages import CHECKOUT

FOLDER = CHECKOUT / "docs" / "reference"
NOTE = "<!-- Written by `python -m tests.docs.generate` from the docstrings. Change those, then run it again. -->"
FACES = ("Convokit", "Chat")
VALUES = (
    "Conversation", "Message", "Page", "Hit", "Reply", "Usage", "Verified", "Context", "Report", "Replay", "Diff",
    "Budget", "Retry", "Timeouts", "Limits", "Summary", "Profile", "ContextBuilder", "tool", "Tool",
)  # fmt: skip
ELSEWHERE = {
    "ConvokitError": "errors.md", "AsyncConvokit": "", "AsyncChat": "",
    "Stream": "events.md", "AsyncStream": "events.md", "StreamEvent": "events.md",
}  # fmt: skip
MODULES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "errors": (
        "convokit.errors",
        "Everything the library raises on purpose. [Errors](../how-to/errors.md) says what to do about each.",
        ("errors",),
    ),
    "settings": (
        "convokit.settings",
        "How a kit, a chat or a call behaves. The variables of the environment have [a page](environment.md).",
        ("settings",),
    ),
    "store": (
        "convokit.store",
        "Functions over a SQLAlchemy `Connection` that you hold, in your transaction. They neither begin nor commit.\n"
        "[Inside an application that has its own database](../how-to/host-application.md) shows them at work. Reading is\n"
        "for everyone; to change a conversation use a kit, which keeps message, turn, call and chain together.",
        (
            *("store.conversations", "store.messages", "store.turns"),
            *("store.turn_changes", "store.turn_writes", "store.migrations"),
        ),
    ),
    "context": (
        "convokit.context",
        "The context builder alone: no database, no network. [Parts](../how-to/parts.md) shows it at work.",
        (
            *("context.builder", "context.report"),
            *(f"tokens.{name}" for name in ("counter", "estimate", "exact", "calibrate", "media")),
            *("context.strategy", "context.validity", "runtime.tokenizer", "usage.calibration"),
        ),
    ),
    "wire": (
        "convokit.wire",
        "The Chat Completions API as bytes in and values out, without a connection. [Parts](../how-to/parts.md) shows it\n"
        "at work.",
        ("wire.request", "wire.response", "wire.sse", "wire.error_mapping", "completion.retry"),
    ),
    "events": (
        "Streams and their events",
        "What `chat.stream(...)` returns, and what it hands out while a reply is on its way.\n"
        "`Stream`, `AsyncStream` and the union `StreamEvent` come from `convokit`, the single events from\n"
        "`convokit.domain.events`.",
        ("runtime.sync:Stream", "runtime.aio:AsyncStream", "domain.events"),
    ),
}


def written() -> dict[str, str]:
    """Return every generated page by its file name."""
    pages = {"convokit": list(_package()), "parameters": list(_parameters())}
    pages |= {page: list(_modules(*said)) for page, said in MODULES.items()}
    texts = {f"{page}.md": "\n".join(lines).rstrip() + "\n" for page, lines in pages.items()}
    return {**texts, "data-model.md": datamodel.page(NOTE), "commands.md": commands.page(NOTE)}


def _package() -> Iterator[str]:
    assert sorted([*FACES, *VALUES, *ELSEWHERE]) == convokit.__all__, "tests/docs/generate.py: place the new name"
    yield from ("# convokit", "", NOTE, "", "`from convokit import ...`: the names most programs need.", "")
    for name in FACES:
        yield from render.described(getattr(convokit, name), depth=2)
        yield from _asynchronous(f"Async{name}", name)
    for name in VALUES:
        yield from render.described(getattr(convokit, name), depth=2)


def _asynchronous(name: str, twin: str) -> Iterator[str]:
    """Yield the asynchronous face in short: the same methods, and which of them are awaited."""
    yield from (f"## {name}", "", str(inspect.getdoc(getattr(convokit, name))).split("\n\n")[0], "")
    yield from (f"Everything `{twin}` has, under the same names and with the same parameters:", "")
    for method, function in vars(getattr(convokit, name)).items():
        if not method.startswith("_") and inspect.isfunction(function):
            yield f"- `{'await ' if inspect.iscoroutinefunction(function) else ''}{method}(...)`"
    yield ""


def _parameters() -> Iterator[str]:
    yield from ("# Request parameters", "", NOTE, "")
    yield from (
        "What `Convokit(...)`, `kit.chat(...)`, `chat.send(...)`, `chat.stream(...)` and `chat.context(...)` pass on to the",
        "model. Per call beats the chat, which beats the kit, parameter by parameter.",
        "",
        render.module_text(params),
        "",
        "| parameter | type | |",
        "|---|---|---|",
        *render.typed_dict(params.RequestParams),
        "",
        "## Settings of a call",
        "",
        "What `send`, `stream`, `resume` and `context` take besides.",
        "",
        "| setting | type | |",
        "|---|---|---|",
        *render.own_keys(CallOptions),
    )


def _modules(title: str, lead: str, names: tuple[str, ...]) -> Iterator[str]:
    yield from (f"# {title}", "", NOTE, "", lead, "")
    for name in names:
        module_name, _, member = name.partition(":")
        module = importlib.import_module(f"convokit.{module_name}")
        if member:
            yield from render.described(getattr(module, member), depth=2)
        elif len(names) == 1 or "." not in name or title.startswith("Streams"):
            yield from (render.module_text(module), "")
            yield from _members(module, depth=2)
        else:
            yield from (f"## convokit.{module_name}", "", render.module_text(module), "")
            yield from _members(module, depth=3)


def _members(module: ModuleType, depth: int) -> Iterator[str]:
    members: list[Any] = render.public_members(module)
    for value in members:
        yield from render.described(value, depth=depth)
    yield from render.constants(module, depth=depth)


def main() -> int:
    """Write the pages; say which changed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file_name, text in written().items():
        path = FOLDER / file_name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"{path.relative_to(CHECKOUT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
