"""Answer requests of the Chat Completions API from a script."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from convokit.completion.effects import OpenRequest
from convokit.errors import SettingsError
from convokit.testing.in_process import AsyncScriptedClient, ScriptedClient
from convokit.testing.loopback import serve_loopback
from convokit.testing.script import (
    RenderedAnswer,
    ScriptedCall,
    ScriptedError,
    ScriptedReply,
    ScriptItem,
    render_error,
    render_reply,
)

_PATH = "/chat/completions"
_NO_RETRY = {"x-should-retry": "false"}
AtEnd = Literal["error", "echo", "repeat"]


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that the model received."""

    number: int
    """1 for the first request."""
    path: str
    headers: Mapping[str, str] = field(repr=False)
    """The headers, with names in lower case. They may contain an API key, so no repr shows them."""
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages that were sent."""
        messages: list[dict[str, Any]] = self.body.get("messages") or []
        return messages

    @property
    def text(self) -> str:
        """The text of the last message. Text parts are joined; other parts have no text."""
        content = self.messages[-1].get("content") if self.messages else None
        if content is None or isinstance(content, str):
            return content or ""
        return "".join(part.get("text", "") for part in content if part.get("type") == "text")


Script = Iterable[ScriptItem] | Callable[[RecordedRequest], ScriptItem]


class ScriptedModel:
    """A model that answers from a script, for tests and demonstrations. It needs no network and no key.

    Pass `client()` to a kit, or serve a URL to other programs with `serve()`. Both answer from the same script, in the order
    in which requests arrive. Summaries that a kit asks for take replies of the script too.

    >>> from convokit import Convokit
    >>> from convokit.testing import ScriptedModel
    >>> model = ScriptedModel(["Hello.", "Good bye."])
    >>> kit = Convokit("chat.db", model="gpt-6-luna", api_key="test", http_client=model.client())
    >>> kit.migrate()
    >>> kit.chat("k").send("Good morning").text
    'Hello.'
    >>> model.last_request.messages
    [{'role': 'user', 'content': 'Good morning'}]

    Args:
        script: Replies in order, or a function that returns the reply to a request and does not block. Without a script, the
            model echoes. A generator or other iterator gives each reply when a request asks for it, so it may be endless.
        at_end: The answer after the last reply of the script. "error" is status 500 with the number of the request, which a
            kit does not retry; "echo" repeats the text of the request's last message; "repeat" gives the last reply again.

    Raises: SettingsError for an unknown `at_end`, for a script with something else than replies, and for one reply in place of
    a script.
    """

    def __init__(self, script: Script | None = None, *, at_end: AtEnd = "error") -> None:
        if at_end not in ("error", "echo", "repeat"):
            raise SettingsError("at_end", f'must be "error", "echo" or "repeat", not {at_end!r}')
        if isinstance(script, str | Mapping) or not (
            script is None or callable(script) or isinstance(script, Iterable)
        ):
            raise SettingsError("script", f"must be a list of replies or a function, not {script!r}")
        self._find_reply = script if callable(script) else None
        self._later: Iterator[ScriptItem] | None = script if isinstance(script, Iterator) else None
        self._at_end: AtEnd = "echo" if script is None else at_end
        self._lock = threading.Lock()
        self._script: deque[ScriptedReply | ScriptedError] = deque()
        self._last: ScriptedReply | ScriptedError | None = None
        self._calls = 0
        self._requests: list[RecordedRequest] = []
        if self._find_reply is None and self._later is None and script is not None:
            self.add(*cast("Iterable[ScriptItem]", script))

    def add(self, *replies: ScriptItem) -> None:
        """Add replies to the end of the script. They come before what a function, an iterator or `at_end` answers."""
        checked = [_to_answer(reply) for reply in replies]
        with self._lock:
            self._script += checked

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, the first one first."""
        return list(self._requests)

    @property
    def last_request(self) -> RecordedRequest:
        """The newest request. Raises: LookupError if there was none."""
        if not self._requests:
            raise LookupError("the scripted model has received no request")
        return self._requests[-1]

    def client(self) -> ScriptedClient:
        """Return the `http_client` for a `Convokit`."""
        return ScriptedClient(self._respond_in_process)

    def async_client(self) -> AsyncScriptedClient:
        """Return the `http_client` for an `AsyncConvokit`."""
        return AsyncScriptedClient(self._respond_in_process)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve the model on a loopback port, in a thread, until the `with` block ends. The block gets the base URL."""
        with serve_loopback(self._respond_to_url) as address:
            yield f"{address}/v1"

    def _respond_to_url(self, method: str, url: str, headers: Mapping[str, str], data: bytes) -> RenderedAnswer:
        try:
            return self._respond(method, url, headers, data)
        except Exception as error:  # the function of the test raised it, and its client is elsewhere
            return render_error(ScriptedError(500, f"{type(error).__name__}: {error}", headers=_NO_RETRY))

    def _respond_in_process(self, request: OpenRequest) -> RenderedAnswer:
        return self._respond("POST", request.url, request.headers, request.data)

    def _respond(self, method: str, url: str, headers: Mapping[str, str], data: bytes) -> RenderedAnswer:
        path = urlsplit(url).path
        if method != "POST" or not path.endswith(_PATH):
            return render_error(ScriptedError(404, f"a scripted model answers POST {_PATH} only, not {method} {path}"))
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return render_error(ScriptedError(400, "the body of the request is not a JSON object"))
        named = {name.lower(): value for name, value in headers.items()}
        with self._lock:
            request = RecordedRequest(len(self._requests) + 1, path, named, body)
            self._requests.append(request)
            answer = self._script.popleft() if self._script else self._take_later()
        if answer is None:
            answer = (
                self._answer_after_script(request)
                if self._find_reply is None
                else _to_answer(self._find_reply(request))
            )
        if isinstance(answer, ScriptedError):
            return render_error(answer)
        with self._lock:
            self._last, calls = answer, self._calls
            self._calls += len(answer.calls)
        return render_reply(answer, body, url, request.number, calls)

    def _take_later(self) -> ScriptedReply | ScriptedError | None:
        """Return the next reply of an iterator, None after its last one. The caller has the lock: a generator runs once."""
        for item in self._later or ():
            return _to_answer(item)
        return None

    def _answer_after_script(self, request: RecordedRequest) -> ScriptedReply | ScriptedError:
        if self._at_end == "echo":
            return ScriptedReply(f"echo: {request.text}")
        if self._at_end == "repeat" and self._last is not None:
            return self._last
        problem = f"the script has no reply for request {request.number}"
        return ScriptedError(500, problem, code="script_ended", headers=_NO_RETRY)


def _to_answer(item: object) -> ScriptedReply | ScriptedError:
    if isinstance(item, ScriptedReply | ScriptedError):
        return item
    if isinstance(item, ScriptedCall):
        return ScriptedReply(calls=[item])
    if isinstance(item, str):
        return ScriptedReply(item)
    kinds = "a text, ScriptedCall, ScriptedReply or ScriptedError"
    raise SettingsError("script", f"a reply must be {kinds}, not {item!r}")
