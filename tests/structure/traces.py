"""Count the files that one call visits, and how often it switches between files.

A reader follows a call through these files. `python -m tests.structure.traces` prints the counts and `--write` stores them in
`traces.json`; `test_traces.py` lets them only fall.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import convokit
from convokit import Convokit
from convokit.completion.effects import OpenRequest, ResponseHead
from tests.support.token_counts import count_reply, count_request

PACKAGE = Path(convokit.__file__).resolve().parent
STORED = Path(__file__).with_name("traces.json")
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Trace:
    """The files of the package that a call visits, and how often the running code switches from one file to another."""

    files: int
    switches: int


class _Answer:
    def __init__(self, body: bytes, content_type: str) -> None:
        self.head = ResponseHead(200, {"content-type": content_type})
        self._left = [body, b""]

    def read(self, timeout_s: float) -> bytes:
        return self._left.pop(0)

    def close(self) -> None:
        return


class _Client:
    """Answers every request from memory, so that the counts depend on the code alone."""

    def open(self, request: OpenRequest) -> _Answer:
        body = json.loads(request.data)
        if body.get("stream"):
            chunks = [{"delta": {"content": word}, "index": 0} for word in ("hello", " there")]
            chunks.append({"delta": {}, "index": 0, "finish_reason": "stop"})
            body = b"".join(b"data: " + json.dumps({"choices": [chunk]}).encode() + b"\n\n" for chunk in chunks)
            return _Answer(body + b"data: [DONE]\n\n", EVENT_STREAM)
        message = {"role": "assistant", "content": "hello there"}
        prompt, reply = count_request(body), count_reply(message)
        usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return _Answer(json.dumps({"choices": [choice], "usage": usage}).encode(), "application/json")

    def close(self) -> None:
        return


def trace(call: Callable[[], object]) -> Trace:
    """Return the trace of a call: every Python function of the package that starts or resumes counts."""
    files: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)) and (not files or files[-1] != name):
            files.append(name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return Trace(len(set(files)), len(files))


def measure() -> dict[str, Trace]:
    """Return the traces of six calls on a SQLite database. Each was made before: caches are warm."""
    with tempfile.TemporaryDirectory() as folder:
        warm, kit, target = (_make_kit(Path(folder) / name) for name in ("warm.db", "kit.db", "target.db"))
        for each in (warm, kit):
            chat = each.chat("a")
            chat.send("first question")
        calls = _list_calls(warm, target, Path(folder) / "warm.jsonl")
        for call in calls.values():
            call()
        calls = _list_calls(kit, _make_kit(Path(folder) / "second.db"), Path(folder) / "kit.jsonl")
        return {name: trace(call) for name, call in calls.items()}


def _make_kit(path: Path) -> Convokit:
    client: Any = _Client()
    kit = Convokit(path, model="m", base_url="http://127.0.0.1:1/v1", http_client=client)
    kit.migrate()
    return kit


def _list_calls(kit: Convokit, target: Convokit, file: Path) -> dict[str, Callable[[], object]]:
    chat = kit.chat("a")

    def stream() -> None:
        with chat.stream("streamed question") as events:
            for _ in events:
                pass

    return {
        "send": lambda: chat.send("another question"),
        "stream": stream,
        "search": lambda: kit.search("question"),
        "export": lambda: kit.export(file),
        "import": lambda: target.import_(file, trusted=True),
        "erase": chat.erase,
    }


def main() -> None:
    """Print the traces; store them with `--write`."""
    measured = {name: {"files": each.files, "switches": each.switches} for name, each in measure().items()}
    text = json.dumps(measured, indent=4) + "\n"
    sys.stdout.write(text)
    if "--write" in sys.argv[1:]:
        STORED.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
