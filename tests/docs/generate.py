"""Write docs/reference from docstrings and tables: `python -m tests.docs.generate`.

The output depends on the source alone, so a test compares the pages with it. This module decides on which page a public name
stands; the text comes from the code.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence

import convokit
from convokit.completion.options import CallOptions
from convokit.domain import params
from tests.docs import commands, datamodel, render
from tests.docs.pages import CHECKOUT

FOLDER = CHECKOUT / "docs" / "reference"
NOTE = "<!-- Written by `python -m tests.docs.generate` from the docstrings. Change those, then run it again. -->"
ENTRY_POINTS = ("Convokit", "Chat")
SETTINGS = ("Budget", "Retry", "Timeouts", "Limits", "Summary", "Profile")
STREAMS = ("Stream", "AsyncStream")
EVENTS = (
    "Started", "TextDelta", "ReasoningDelta", "RefusalDelta", "ToolCallDelta", "AudioDelta", "Retrying", "HistoryGap",
    "Finished",
)  # fmt: skip
VALUES = (
    "Conversation", "MessagePreview", "Message", "NewMessage", "Page", "Hit", "SearchPage", "Reply", "Turn", "TurnRecord",
    "History", "Run", "Call", "RequestWindow", "PastWindow", "PastPart",
    "ToolRun", "ChainEntry", "Removal", "StoredBlob", "SummaryRecord", "Branch", "Usage",
    "Verified", "VerifiedAll", "MovedHead", "Checkpoint",
    "Replay", "Diff", "Receipt", "Recovered", "Exported", "Imported", "UsageReport", "Price", "Prices",
    "tool", "Tool", "HttpxClient", "AsyncHttpxClient", "TokenizeCounter",
)  # fmt: skip
ELSEWHERE = (
    "AsyncConvokit", "AsyncChat", "ConvokitError", "Context", "ContextBuilder", "Report", "StreamEvent", "ToolLike",
)  # fmt: skip
"""Names of `convokit` that are described with another name or on another page."""
PACKAGES: dict[str, str] = {
    "errors": "Every exception of the library. [Errors](../how-to/errors.md) says what to do about each.",
    "store": "[Inside an application that has its own database](../how-to/host-application.md) shows these functions in use.",
    "context": "[One part alone](../how-to/parts.md) shows the context builder in use.",
    "observers": "[Observe turns](../how-to/observe.md) shows observers in use.",
    "local": "[Providers](../how-to/providers.md#a-small-model-on-this-machine) shows it in use.",
    "server": "[Serve conversations](../how-to/serve.md#mount-it-in-an-application) shows the application in use.",
    "telemetry": "[Trace turns with OpenTelemetry](../how-to/opentelemetry.md) shows the observer in use.",
    "testing": "[Test your application](../how-to/test-your-application.md) shows the scripted model and the fixtures in use.",
    "tokens": "[Counting tokens](../how-to/token-counting.md) shows the counters in use.",
    "viewer": "[Look at conversations](../how-to/view.md#mount-it-in-an-application) shows the pages in use.",
    "wire": "[One part alone](../how-to/parts.md) shows the codec in use.",
}
"""Public packages, each with the sentence below its title. A page describes exactly the public names of the package."""


def written() -> dict[str, str]:
    """Return every generated page by its file name."""
    pages = {"convokit": list(_convokit()), "parameters": list(_parameters()), "events": list(_events())}
    pages |= {name: list(_package(name, lead)) for name, lead in PACKAGES.items()}
    texts = {f"{page}.md": "\n".join(lines).rstrip() + "\n" for page, lines in pages.items()}
    return {**texts, "data-model.md": datamodel.page(NOTE), "commands.md": commands.page(NOTE)}


def _convokit() -> Iterator[str]:
    placed = sorted([*ENTRY_POINTS, *SETTINGS, *STREAMS, *EVENTS, *VALUES, *ELSEWHERE])
    assert placed == convokit.__all__, "tests/docs/generate.py: place the new name"
    yield from ("# convokit", "", NOTE, "", "`from convokit import ...`: the names most programs need.", "")
    for name in ENTRY_POINTS:
        yield from render.described(getattr(convokit, name), name, depth=2)
        yield from _asynchronous(f"Async{name}", name)
    for name in (*SETTINGS, *VALUES):
        yield from render.described(getattr(convokit, name), name, depth=2)


def _asynchronous(name: str, twin: str) -> Iterator[str]:
    """Yield the asynchronous class in short: the same methods, and which of them are awaited."""
    yield from (f"## {name}", "", str(inspect.getdoc(getattr(convokit, name))).split("\n\n")[0], "")
    yield from (f"Everything `{twin}` has, under the same names and with the same parameters:", "")
    for method, function in vars(getattr(convokit, name)).items():
        if not method.startswith("_") and inspect.isfunction(function):
            yield f"- `{'await ' if inspect.iscoroutinefunction(function) else ''}{method}(...)`"
    yield ""


def _events() -> Iterator[str]:
    yield from ("# Streams and their events", "", NOTE, "")
    yield from ("`chat.stream(...)` returns a stream, which yields these events. All names come from `convokit`.", "")
    yield from ("`StreamEvent` is the union of the events.", "")
    for name in (*STREAMS, *EVENTS):
        yield from render.described(getattr(convokit, name), name, depth=2)


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


def _package(name: str, lead: str) -> Iterator[str]:
    module = importlib.import_module(f"convokit.{name}")
    own = [key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__]
    names: Sequence[str] = getattr(module, "__all__", own)  # convokit.errors defines its names itself
    yield from (f"# convokit.{name}", "", NOTE, "", lead, "", render.module_text(module), "")
    for each in names:
        yield from render.described(getattr(module, each), each, depth=2)


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
