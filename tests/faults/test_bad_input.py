"""What bad input gets: a typed error that says what is wrong and what to do, before anything is written or called."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convokit import Retry
from convokit.errors import (
    InvalidInput,
    NotFound,
    SettingsError,
    StoreUnavailable,
    TooLarge,
    Unreachable,
)
from tests.support.faces import Face
from tests.support.server import LoopbackServer


def _nothing_happened(face: Face, kit: Any, server: LoopbackServer) -> None:
    assert server.requests == []
    assert len(face.settle(kit.conversations())) == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("a\x00b", "NUL"),
        ("a\ud800b", "lone surrogate"),
        (b"bytes", "must be text"),
        (None, "must be text"),
    ],
)
def test_text_that_cannot_be_stored(face: Face, kit: Any, server: LoopbackServer, text: Any, problem: str) -> None:
    """Empty text, NUL, lone surrogates and what is no text at all are refused at once."""
    with pytest.raises(InvalidInput, match=problem):
        face.settle(kit.chat("k").send(text))
    _nothing_happened(face, kit, server)


def test_ten_megabytes_of_text(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Text over the limit names both sizes and the setting that raises it."""
    with pytest.raises(TooLarge, match=r"Limits\.message_bytes") as caught:
        face.settle(kit.chat("k").send("あ" * 3_500_000))
    assert (caught.value.size, caught.value.limit) == (10_500_000, 1024 * 1024)
    _nothing_happened(face, kit, server)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"temprature": 1}, "temprature"),
        ({"api_metadata": {"a": "b"}}, "api_metadata"),
        ({"max_tokens": 5, "max_output_tokens": 5}, "max_tokens"),
    ],
)
def test_a_parameter_out_of_range(
    face: Face, kit: Any, server: LoopbackServer, given: dict[str, Any], named: str
) -> None:
    """A parameter out of its documented range, unknown, or at odds with another is named in the error."""
    with pytest.raises(SettingsError) as caught:
        face.settle(kit.chat("k").send("hello", **given))
    assert caught.value.setting.startswith(named)
    _nothing_happened(face, kit, server)


def test_reading_what_is_not_there(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Reads of a conversation that is not there raise NotFound and create nothing."""
    chat = kit.chat("nobody")
    calls: list[Callable[[], Any]] = [chat.messages, chat.context, chat.verify]
    for call in calls:
        with pytest.raises(NotFound, match="nobody"):
            face.settle(call())
    _nothing_happened(face, kit, server)


def test_no_model(face: Face, database: str, server: LoopbackServer) -> None:
    """Without a model anywhere the error names the setting; nothing is written."""
    kit = face.kit(database, base_url=server.url)
    with pytest.raises(SettingsError, match="CONVOKIT_MODEL"):
        face.settle(kit.chat("k").send("hello"))
    _nothing_happened(face, kit, server)


def test_no_key_for_a_host_that_wants_one(face: Face, database: str, server: LoopbackServer) -> None:
    """OpenAI without a key is refused before anything is written or sent."""
    kit = face.kit(database, model="gpt-6-luna")
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        face.settle(kit.chat("k").send("hello"))
    _nothing_happened(face, kit, server)


def test_an_unreachable_host(face: Face, database: str) -> None:
    """A refused connection is Unreachable after its retries; the question is kept."""
    kit = face.kit(database, model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(Unreachable, match="cannot connect") as caught:
        face.settle(kit.chat("k").send("hello", retry=Retry(attempts=2, initial_s=0.0)))
    assert caught.value.turn_id is not None
    assert [message.text for message in face.settle(kit.chat("k").messages())] == ["hello"]
    face.settle(kit.chat("k").verify())


def test_a_database_that_is_not_there(face: Face, tmp_path: Path) -> None:
    """A missing file or folder is named, and never made by anything but migrate."""
    for path, problem in ((tmp_path / "no.db", "no such file"), (tmp_path / "no" / "no.db", "does not exist")):
        with pytest.raises(StoreUnavailable, match=problem):
            face.settle(face.kit(f"sqlite:///{path}", model="m").chat("k").send("hello"))
        assert not path.exists()


def test_a_server_that_is_not_there(face: Face) -> None:
    """An unreachable PostgreSQL is named without its password."""
    kit = face.kit("postgresql://someone:secret-word@127.0.0.1:9/chats", model="m")
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        face.settle(kit.chat("k").send("hello"))
    assert "secret-word" not in str(caught.value)


_AS_NOBODY = """
import os, sys
from convokit import Convokit
from convokit.errors import StoreUnavailable
kit = Convokit(sys.argv[1], model="m", base_url="http://127.0.0.1:9/v1")
kit.chat("warm")
if os.geteuid() == 0:
    os.setuid(65534)
try:
    kit.chat("k").send("hello")
except StoreUnavailable as error:
    print(error)
"""


def test_a_database_that_cannot_be_written(sqlite_file: str) -> None:
    """A read-only file in a read-only folder is named as not writable."""
    source = Path(sqlite_file.removeprefix("sqlite:///"))
    folder = Path(tempfile.mkdtemp())
    path = folder / "read-only.db"
    shutil.copy(source, path)
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, f"sqlite:///{path}"], check=True, capture_output=True, text=True
        )
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert "not writable" in done.stdout or "cannot be opened" in done.stdout, done


@pytest.mark.parametrize("database", ["nonsense", "mysql://u@h/d", "sqlite://", "sqlite:///:memory:"])
def test_a_database_url_that_cannot_work(face: Face, database: str) -> None:
    """What is no URL, another engine, or a database in memory is refused when the kit is made."""
    with pytest.raises(SettingsError, match="database"):
        face.kit(database, model="m")


@pytest.mark.parametrize("url", ["ftp://host/v1", "nothing", "http://user:pass@host/v1"])
def test_a_base_url_that_cannot_work(face: Face, url: str) -> None:
    """A base URL must be http or https and carry no password."""
    with pytest.raises(SettingsError, match="base_url") as caught:
        face.kit("sqlite:///x.db", model="m", base_url=url)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize("limit", [0, -1, 1001, 1.5, True])
def test_page_sizes(face: Face, kit: Any, limit: Any) -> None:
    """A page holds 1 to 1,000 items; a cursor must be one that a page gave."""
    with pytest.raises(InvalidInput, match="limit"):
        face.settle(kit.conversations(limit=limit))
    with pytest.raises(InvalidInput, match="before"):
        face.settle(kit.conversations(before="no cursor"))


def test_metadata_that_cannot_be_kept(kit: Any) -> None:
    """Metadata must be JSON that means the same on every backend; the path of what does not fit is named."""
    for value in ({"a": {"b": [1, float("inf")]}}, {"a": 2**60}, {"a": {1: 2}}, {"a": b"x"}, {"a": "\x00"}):
        with pytest.raises(InvalidInput, match=r"metadata\.a"):
            kit.chat("k", metadata=value)


def test_text_of_every_script_comes_back_as_it_was(face: Face, kit: Any) -> None:
    """Accepted text returns code point for code point: Japanese, emoji sequences, combining marks, odd line ends."""
    text = "日本語 👩‍👩‍👧‍👦 e\u0301 \u2028\u0085\r\n\u202e end\t\x1b[31m \ufeff \U0010ffff"
    reply = face.settle(kit.chat("k").send(text))
    assert reply.text == f"echo: {text}"
    assert face.settle(kit.chat("k").messages())[0].text == text
