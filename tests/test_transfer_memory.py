"""What an export and an import hold in memory does not depend on how much goes through them."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convokit import Convokit
from tests.support.databases import Files

FEW, MANY = 2_000, 20_000
SLACK = 1_500_000
"""Bytes that caches of statements and the like may take meanwhile."""


def _messages(path: Path, count: int, each: int) -> None:
    """Write conversations of `each` messages, `count` in all."""
    with path.open("w") as file:
        for number in range(count // each):
            talk = [
                {"role": ("user", "assistant")[at % 2], "content": f"message {at} of {number} " * 8}
                for at in range(each)
            ]
            file.write(json.dumps({"key": f"{number}", "messages": talk}) + "\n")


def _peak(call: Callable[[], Any]) -> int:
    """Return the most bytes that were held during a call, above those before it."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("whole", [False, True], ids=["many conversations", "one conversation"])
def test_memory_does_not_grow_with_what_goes_through(files: Files, tmp_path: Path, *, whole: bool) -> None:
    """Ten times the messages take no more memory, out and in, whether in many conversations or in one."""
    peaks: dict[str, list[int]] = {"out": [], "in": [], "rechained": []}
    for count in (FEW, FEW, MANY):  # the first warms every cache
        _messages(tmp_path / "m.jsonl", count, count if whole else 100)
        with (
            Convokit(files.migrated(), model="m") as kit,
            Convokit(files.migrated(), model="m") as twin,
            Convokit(files.empty(), model="m") as other,
        ):
            other.migrate()
            kit.import_(tmp_path / "m.jsonl", format="messages")
            path = tmp_path / "out.jsonl"
            peaks["out"].append(_peak(lambda kit=kit: kit.export(path)))  # type: ignore[misc]
            peaks["in"].append(_peak(lambda kit=twin: kit.import_(path)))  # type: ignore[misc]
            peaks["rechained"].append(_peak(lambda kit=other: kit.import_(path)))  # type: ignore[misc]
    assert path.stat().st_size > 4 * SLACK
    for name, (_, few, many) in peaks.items():
        assert many < few + SLACK, (name, few, many)


def test_memory_of_chatgpt_conversations_is_that_of_one(files: Files, tmp_path: Path) -> None:
    """A file of ten times the conversations takes no more memory: they are read one at a time."""
    peaks = []
    for count in (20, 20, 200):
        path = tmp_path / "conversations.json"
        with path.open("w") as file:
            file.write("[")
            for number in range(count):
                nodes: dict[str, Any] = {}
                for at in range(100):
                    content = {"content_type": "text", "parts": [f"message {at} " * 8]}
                    author = {"role": ("user", "assistant")[at % 2]}
                    message = {"author": author, "content": content, "recipient": "all"}
                    nodes[str(at)] = {"parent": str(at - 1) if at else None, "children": [], "message": message}
                file.write("," * bool(number) + json.dumps({"id": str(number), "mapping": nodes, "current_node": "99"}))
            file.write("]")
        with Convokit(files.migrated(), model="m") as kit:
            peaks.append(_peak(lambda kit=kit: kit.import_(path, format="chatgpt")))  # type: ignore[misc]
    _, few, many = peaks
    assert many < few + SLACK, (few, many)
