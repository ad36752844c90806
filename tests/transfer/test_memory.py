"""Memory of exports and imports: independent of their size."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from convokit import Convokit
from tests.support.chatgpt import node, tree
from tests.support.databases import Files
from tests.support.selection import keep

SLACK = 1_200_000
"""Bytes that caches of statements, and pages which the smaller one does not fill, may take."""
SIZES = [pytest.param(400, marks=pytest.mark.soak(sample=True)), pytest.param(2_000, marks=pytest.mark.soak)]


def _messages(path: Path, count: int, each: int) -> None:
    """Write conversations of `each` messages, `count` in all."""
    with path.open("w") as file:
        for number in range(count // each):
            talk = [
                {"role": ("user", "assistant")[at % 2], "content": f"message {at} of {number} " * 14}
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


@pytest.mark.parametrize("whole", keep([False, True], True), ids=["many conversations", "one conversation"])
@pytest.mark.parametrize("few", SIZES)
def test_memory_of_exports_and_imports_does_not_grow(files: Files, tmp_path: Path, few: int, *, whole: bool) -> None:
    """Ten times the messages take no more memory, in many conversations or in one."""
    peaks: dict[str, list[int]] = {"out": [], "in": [], "rechained": []}
    source, path = tmp_path / "m.jsonl", tmp_path / "out.jsonl"
    for count in (100, few, 10 * few):  # the first warms every cache
        _messages(source, count, count if whole else 100)
        with (
            Convokit(files.migrated(), model="m") as kit,
            Convokit(files.migrated(), model="m") as twin,
            Convokit(files.empty(), model="m") as other,
        ):
            other.migrate()
            kit.import_(source, format="messages", prefix="")
            peaks["out"].append(_peak(partial(kit.export, path)))
            peaks["in"].append(_peak(partial(twin.import_, path, trusted=True)))
            peaks["rechained"].append(_peak(partial(other.import_, path, trusted=True)))
    assert path.stat().st_size > 2 * SLACK
    for name, (_, small, large) in peaks.items():
        assert large < small + SLACK, (name, small, large)


@pytest.mark.soak(sample=True)
def test_memory_of_a_chatgpt_import_does_not_grow(files: Files, tmp_path: Path) -> None:
    """Conversations are read one at a time."""
    peaks, path = [], tmp_path / "conversations.json"
    for count in (2, 8, 80):
        with path.open("w") as file:
            file.write("[")
            for number in range(count):
                nodes = [node("0", None, "user", "x" * 1000)]
                nodes += [node(str(at), str(at - 1), "assistant", f"{at} " * 500) for at in range(1, 20)]
                value = {"id": str(number), "mapping": tree(*nodes), "current_node": "19"}
                file.write("," * bool(number) + json.dumps(value))
            file.write("]")
        with Convokit(files.migrated(), model="m") as kit:
            peaks.append(_peak(partial(kit.import_, path, format="chatgpt")))
    _, few, many = peaks
    assert path.stat().st_size > 2 * SLACK
    assert many < few + SLACK, (few, many)
