"""Settings, parameters and places that cannot work: a typed error that names them, before anything is written or called."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from convokit import Budget, Limits, Retry, Timeouts
from convokit.errors import ContextOverflow, InvalidInput, SettingsError, StoreUnavailable, Unreachable
from tests.faults.shared_kit import EACH_ONCE, Stage, circle, nested, staged
from tests.faults.test_bad_input import NAMES
from tests.support.faces import Face
from tests.support.server import LoopbackServer

stage = staged(EACH_ONCE)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "default": math.nan}}}
PARAMS: list[tuple[str, dict[str, Any]]] = [
    ("temperature", {"temperature": 2.1}),
    ("temperature", {"temperature": math.nan}),
    ("temperature", {"temperature": "hot"}),
    ("top_p", {"top_p": -0.1}),
    ("presence_penalty", {"presence_penalty": 3}),
    ("frequency_penalty", {"frequency_penalty": -math.inf}),
    ("n", {"n": 0}),
    ("n", {"n": True}),
    ("max_output_tokens", {"max_output_tokens": 0}),
    ("max_output_tokens", {"max_output_tokens": 1.5}),
    ("max_output_tokens", {"max_output_tokens": 10**30}),
    ("max_tokens", {"max_tokens": 5, "max_output_tokens": 5}),
    ("seed", {"seed": 2**63}),
    ("top_logprobs", {"top_logprobs": 3}),
    ("stop", {"stop": ["a", "b", "c", "d", "e"]}),
    ("stop", {"stop": ["\ud800"]}),
    ("reasoning_effort", {"reasoning_effort": "huge"}),
    ("temprature", {"temprature": 1}),
    ("messages", {"messages": "hello"}),
    ("window", {"window": "exactly"}),
    ("start", {"start": 3}),
    ("api_metadata", {"api_metadata": {"a": "b"}}),
    ("api_metadata", {"api_metadata": {"a": "b" * 513}, "store": True}),
    ("logit_bias", {"logit_bias": {50256: 1}}),
    ("logit_bias", {"logit_bias": {"50256": math.nan}}),
    ("logit_bias", {"logit_bias": {"\ud800": 1}}),
    ("user", {"user": "\ud800"}),
    ("user", {"user": "a\x00"}),
    ("user", {"user": ["x"]}),
    ("tool_choice", {"tool_choice": "\ud800"}),
    ("tool_choice.function.name", {"tool_choice": {"type": "function", "function": {"name": "\ud800"}}}),
    ("tool_choice.a", {"tool_choice": {"a": {1}}}),
    ("tool_choice.a", {"tool_choice": {"a": math.inf}}),
    ("tool_choice.again", {"tool_choice": circle()}),
    ("tool_choice.in", {"tool_choice": nested(3_000)}),
    ("extra_body.a", {"extra_body": {"a": "\ud800"}}),
    ("extra_body.a", {"extra_body": {"a": "\x00"}}),
    ("extra_body.a", {"extra_body": {"a": {1: 2}}}),
    ("extra_body.a", {"extra_body": {"a": 10**5000}}),
    ("extra_body.a", {"extra_body": {"a": Decimal(1)}}),
    ("extra_body.a", {"extra_body": {"a": b"x"}}),
    ("extra_body.again", {"extra_body": circle()}),
    ("extra_body.in", {"extra_body": nested(100)}),
    ("extra_body", {"extra_body": {1: 2}}),
    ("prediction.content", {"prediction": {"type": "content", "content": math.nan}}),
    ("response_format", {"response_format": 5}),
    ("response_format", {"response_format": "json"}),
    ("response_format.json_schema.schema.default", {"response_format": SCHEMA}),
    ("extra_headers['x']", {"extra_headers": {"x": "a\r\nx-forged: 1"}}),
    ("extra_headers['x']", {"extra_headers": {"x": "ä"}}),
    ("extra_headers['x']", {"extra_headers": {"x": "\ud800"}}),
    ("extra_headers['x']", {"extra_headers": {"x": ""}}),
    ("extra_headers.x", {"extra_headers": {"x": 5}}),
    ("extra_headers", {"extra_headers": {"x y": "a"}}),
    ("extra_headers", {"extra_headers": {"": "a"}}),
    ("extra_headers['Content-Length']", {"extra_headers": {"Content-Length": "3"}}),
    ("extra_headers['transfer-encoding']", {"extra_headers": {"transfer-encoding": "gzip"}}),
    ("max_tool_rounds", {"max_tool_rounds": -1}),
    ("max_tool_rounds", {"max_tool_rounds": True}),
    ("max_tool_rounds", {"max_tool_rounds": 1.5}),
    ("on_busy", {"on_busy": "queue"}),
    ("on_busy", {"on_busy": ["raise"]}),
    ("model", {"model": ""}),
    ("model", {"model": None}),
    ("model", {"model": "a\x00"}),
    ("model", {"model": "\ud800"}),
    ("model", {"model": "m" * 1_025}),
    ("developer_prompt", {"developer_prompt": "\x00"}),
    ("developer_prompt", {"developer_prompt": "\ud800"}),
    ("developer_prompt", {"developer_prompt": 5}),
    ("developer_prompt", {"developer_prompt": "x" * (1024 * 1024 + 1)}),
    ("budget", {"budget": {"context_tokens": 5}}),
    ("retry", {"retry": 3}),
    ("timeouts", {"timeouts": 3.0}),
    ("tools", {"tools": "abc"}),
    ("tools", {"tools": [5]}),
    ("tools", {"tools": None}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "description": "\ud800"}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": {1}}}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": circle()}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "../f"}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}] * 2}),
]


@pytest.mark.once
@pytest.mark.parametrize(("named", "given"), PARAMS)
def test_a_setting_of_a_call_that_cannot_be(stage: Stage, named: str, given: dict[str, Any]) -> None:
    """A setting out of range, unknown, no JSON, or at odds with another is named, by every way in; nothing happens."""
    chat = stage.chat()
    ways: list[Callable[[], Any]] = [lambda: chat.send("x", **given)]
    ways.append(lambda: chat.send("x", idempotency_key="once", **given))
    if not given.keys() & {"on_busy", "retry", "timeouts", "max_tool_rounds", "max_output_tokens"}:
        ways.append(lambda: stage.settle(stage.chat(**given)).send("x"))
    with stage.untouched():
        for way in ways:
            with pytest.raises((SettingsError, InvalidInput, ContextOverflow)) as caught:
                stage.settle(way())
            error: Any = caught.value
            assert getattr(error, "field", getattr(error, "setting", named)).startswith(named)
            str(error).encode()


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"temperature": "0.5"}, {"temperature": 0.5}),
        ({"temperature": Decimal("0.25")}, {"temperature": 0.25}),
        ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
        ({"extra_body": MappingProxyType({"a": MappingProxyType({"b": (1, 2**63)})})}, {"a": {"b": [1, 2**63]}}),
        ({"extra_body": {"é": "\ufeff\u2028\x1b"}}, {"é": "\ufeff\u2028\x1b"}),
        ({"user": "{{x}} %s {0}"}, {"user": "{{x}} %s {0}"}),
        ({"seed": -(2**63)}, {"seed": -(2**63)}),
    ],
)
def test_a_setting_is_sent_as_it_was_checked(stage: Stage, given: dict[str, Any], sent: dict[str, Any]) -> None:
    """What was accepted is sent in the type that the API documents, and stored settings send the same again."""
    chat = stage.chat(**given)
    stage.settle(chat.send("x"))
    stage.settle(stage.kit.chat(chat.key).send("y"))
    for request in stage.server.requests[-2:]:
        assert {key: request.body.get(key) for key in sent} == sent


WHOLE = [0, -1, 1.5, True, "5", None, math.nan]
SECONDS = [0, -1, math.nan, math.inf, 1e15, True, "5", None]
GROUPS: list[tuple[type, str, list[Any]]] = [
    *((Limits, name, WHOLE) for name in Limits.__slots__),
    *((Budget, name, [0, -1, 1.5, True, "5", math.nan]) for name in Budget.__slots__),
    *((Timeouts, name, SECONDS) for name in Timeouts.__slots__),
    (Retry, "attempts", WHOLE),
    *((Retry, name, SECONDS[1:]) for name in ("initial_s", "maximum_s", "honour_s")),
    *((Retry, name, ["no", 1, None]) for name in ("ambiguous", "drop_unsupported", "retrim")),
]


@pytest.mark.parametrize(("group", "name", "values"), GROUPS)
def test_every_field_of_a_group_is_checked(group: type, name: str, values: list[Any]) -> None:
    """A field of Limits, Budget, Timeouts or Retry that makes no sense is named when the group is made."""
    for value in values:
        with pytest.raises(SettingsError) as caught:
            group(**{name: value})
        assert caught.value.setting == f"{group.__name__}.{name}"


def test_every_field_of_every_group_is_in_the_table() -> None:
    """A new field of a group must say what it refuses."""
    for group in (Limits, Budget, Timeouts, Retry):
        assert {name for each, name, _ in GROUPS if each is group} == set(group.__slots__)
        made: Any = group
        with pytest.raises(TypeError):
            made(unknown=1)


@pytest.mark.once
@pytest.mark.parametrize(("given", "problem"), [pytest.param(*case[1:], id=case[0]) for case in NAMES[:7]])
def test_tenants_that_cannot_be(stage: Stage, given: Any, problem: str) -> None:
    """A tenant is a short text that every backend can hold."""
    with pytest.raises(InvalidInput, match=f"tenant.*({problem})"):
        stage.face.kit(stage.database, model="m", tenant=given)


@pytest.mark.once
def test_no_model(face: Face, database: str, server: LoopbackServer) -> None:
    """Without a model anywhere the error names the setting; nothing is written."""
    kit = face.kit(database, base_url=server.url)
    with pytest.raises(SettingsError, match="CONVOKIT_MODEL"):
        face.settle(kit.chat("k").send("hello"))
    assert face.settle(kit.chat("k").messages()) == []


@pytest.mark.once
@pytest.mark.parametrize("key", [None, "", "a b\n", "ä", 5, b"key"])
def test_a_key_that_no_header_can_carry(stage: Stage, key: Any) -> None:
    """No key for a host that wants one, or a key that is no header, given or fetched, is refused at once and not shown."""
    for given in (key, lambda: key):
        with stage.untouched(), pytest.raises(SettingsError, match="api_key") as caught:
            stage.settle(stage.face.kit(stage.database, model="gpt-6-luna", api_key=given).chat("k").send("hello"))
        assert "ä" not in str(caught.value)


@pytest.mark.once
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


DATABASES = [
    "nonsense",
    "mysql://u@h/d",
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite:///a\ud800.db",
    "a\udc80.db",
    5,
    b"x",
]


@pytest.mark.once
@pytest.mark.parametrize("database", DATABASES)
def test_a_database_that_cannot_work(face: Face, database: Any) -> None:
    """What is no URL, another engine, or a database in memory is refused when the kit is made."""
    with pytest.raises(SettingsError, match="database") as caught:
        face.kit(database, model="m")
    str(caught.value).encode()


URLS = ["ftp://host/v1", "file:///etc", "nothing", "http://user:pass@host/v1", "http://h:99999/v1", "http://h\n/v1"]


@pytest.mark.once
@pytest.mark.parametrize("url", [*URLS, "http://h\x00/v1", "http://\ud800/v1", "http:///v1", 5])
def test_a_base_url_that_cannot_work(face: Face, url: Any) -> None:
    """A base URL must be http or https and carry no password."""
    with pytest.raises(SettingsError, match="base_url") as caught:
        face.kit("sqlite:///x.db", model="m", base_url=url)
    assert "pass@" not in str(caught.value)
    str(caught.value).encode()
