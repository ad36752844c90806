"""The programs that bring in conversations of other frameworks, with databases that the real packages wrote.

The tests need none of these packages. Where langchain-core is installed, its messages are used, else simple ones.
"""

from __future__ import annotations

import gzip
import importlib
import json
import runpy
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from convokit import Convokit, Message
from convokit.context.validity import find_problems
from tests.docs.pages import CHECKOUT, blocks
from tests.support.server import LoopbackServer

FIXTURES = CHECKOUT / "tests" / "fixtures" / "other_programs"
PAGE = CHECKOUT / "docs" / "how-to" / "other-frameworks.md"
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
FOREIGN = (
    "rs_1",
    "ws_1",
    "gAAAAABo",
    "I look up",
    "librarian",
    "Be brief",
    "thinking",
    "critic",
    "pay",
    "kind",
    "item",
)
"""Words of instructions, reasoning, other items and open calls. No request may contain one."""
LLM_OLD, LLM_NAMELESS, LLM_CONTINUED, LLM_NEW = (
    "llm:01m8pmcz8p56y1t7va3anj7sgt",
    "llm:01m8pmczmznzvg073ax2jpbesn",
    "llm:01m8pmd01epgygaz7z9nz1nnva",
    "llm:01m8pmd3k57vpc7k1e7c3ac4pw",
)
"""Written by llm 0.27.1; without ids of calls; begun by 0.27.1 and continued by 0.36; written by 0.36."""


def _make_source(name: str, folder: Path) -> Path:
    """Return a database that another program wrote."""
    path = folder / f"{name}.db"
    if name == "llm":
        path.write_bytes(gzip.decompress((FIXTURES / "llm.db.gz").read_bytes()))
    else:
        with closing(sqlite3.connect(path)) as database:
            database.executescript((FIXTURES / f"{name}.sql").read_text("utf-8"))
    return path


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Import a program of `examples/` or of the page, as a script beside it would."""
    for block in blocks(PAGE, "python"):
        head, _, source = str(block.parsed).partition("\n")
        if head.endswith(".py"):
            (tmp_path / head.removeprefix("# ")).write_text(source, "utf-8")
    monkeypatch.syspath_prepend(CHECKOUT / "examples")
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(CHECKOUT / "examples"), str(tmp_path))):
            del sys.modules[name]


@pytest.fixture
def kit(database: str, server: LoopbackServer) -> Iterator[Convokit]:
    with Convokit(database, model="loop-1", base_url=server.url) as made:
        yield made


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _lookup(first: str, second: str, content: str | None, *, together: bool = True) -> list[dict[str, Any]]:
    """Return two calls with their results, as a request has them."""
    calls = [
        _call(first, "opening_hours", '{"branch": "中央"}'),
        _call(second, "weather", '{"city": "東京"}'),
    ]
    results = [
        {"role": "tool", "content": "二十時に閉館します", "tool_call_id": first},
        {"role": "tool", "content": "晴れ", "tool_call_id": second},
    ]
    ask = {"role": "assistant", "content": content}
    if together:
        return [{**ask, "tool_calls": calls}, *results]
    return [{**ask, "tool_calls": calls[:1]}, results[0], {**ask, "tool_calls": calls[1:]}, results[1]]


def _pairs(*texts: Any) -> list[dict[str, Any]]:
    """Return questions and answers in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


HOURS = "土曜日は午後八時まで開いています。"
PHOTO = [{"type": "text", "text": "この写真は?"}, PIXEL]


def _llm(first: str, second: str) -> list[dict[str, Any]]:
    return [
        *_pairs("中央館は今日、何時までですか。", "二十時までです。", "土曜日はどうですか。"),
        *_lookup(first, second, ""),
        {"role": "assistant", "content": HOURS},
        *_pairs(PHOTO, "本棚です。", "And this sound?", "No sound.", "規則: 館内では静かに。\n\nSummarize.", "Fine."),
    ]


SENT: dict[str, list[dict[str, Any]]] = {
    "openai-agents:reader-7": [
        *_pairs("中央館は土曜日、何時までですか。"),
        *_lookup("call_1", "call_2", None, together=False),
        {"role": "assistant", "content": HOURS},
        *_pairs(PHOTO, "お答えできません。", "yes"),
        *_pairs("yes"),
    ],
    "openai-agents:読者8": _pairs("Hello 👋", "Hello."),
    "langchain:reader-7": [
        *_pairs("中央館は土曜日、何時までですか。"),
        *_lookup("call_1", "call_2", ""),
        {"role": "assistant", "content": HOURS},
        *_pairs(PHOTO, "本棚です。", "yes"),
        *_pairs("yes"),
    ],
    "langchain:読者8": _pairs("Hello 👋", "Hello."),
    LLM_OLD: _llm("call_1", "call_2"),
    LLM_NAMELESS: _llm("call_0", "call_1"),
    LLM_CONTINUED: _pairs("Hello 👋", "Hello.", "Are you there?", "Yes."),
    LLM_NEW: _llm("tc_01m8pmd3nqr0fmrcw4ke5n9zpm", "tc_01m8pmd3nqr0fmrcw4ke5n9zpn"),
}
"""The messages of a request, up to the new question, for each conversation."""

IMPORTS = {
    "openai_agents": ("import_openai_agents", "import_sessions", "", "openai-agents:", 16),
    "langchain": ("import_langchain", "import_history", "sqlite:///", "langchain:", 13),
    "llm": ("import_llm", "import_log", "", "llm:", 46),
}
"""The program, its function, what stands before the path, the prefix of its keys, and the messages that it writes."""


@pytest.mark.parametrize("source", IMPORTS)
def test_conversations_move_in_once_and_go_on(
    source: str,
    programs: Callable[[str], Any],
    kit: Convokit,
    server: LoopbackServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An import verifies, is searchable, and writes nothing again; a later question sends nothing foreign."""
    module, function, scheme, prefix, count = IMPORTS[source]
    import_all = getattr(programs(module), function)
    path = f"{scheme}{_make_source(source, tmp_path)}"
    import_all(path, kit)
    keys = {key for key in SENT if key.startswith(prefix)}
    assert {each.key for each in kit.conversations()} == keys
    imported = {key: kit.chat(key).messages(limit=1000) for key in keys}
    assert sum(map(len, imported.values())) == count
    import_all(path, kit)
    assert {key: kit.chat(key).messages(limit=1000) for key in keys} == imported
    assert sum(kit.chat(key).verify().messages for key in keys) == count
    assert "left as it is" not in capsys.readouterr().out

    assert {hit.key for hit in kit.search("閉館")} == {key for key in keys if "二十時に閉館します" in str(SENT[key])}
    for key in keys:
        kit.chat(key).send("次は?")
        body = server.requests[-1].body
        assert body["messages"] == [*SENT[key], {"role": "user", "content": "次は?"}]
        assert find_problems(body["messages"]) == []
        assert not [word for word in FOREIGN if word in json.dumps(body, ensure_ascii=False)]

    gone_on = {key: kit.chat(key).messages(limit=1000) for key in keys}
    import_all(path, kit)
    assert {key: kit.chat(key).messages(limit=1000) for key in keys} == gone_on
    assert sum(kit.chat(key).verify().messages for key in keys) == count + 2 * len(keys)
    assert capsys.readouterr().out.count("left as it is") == len(keys)


@pytest.mark.once
def test_items_and_times_are_kept(programs: Callable[[str], Any], kit: Convokit, tmp_path: Path) -> None:
    """Each item comes back as its program wrote it, at the time that it was written."""
    sessions, table, log = (_make_source(name, tmp_path) for name in ("openai_agents", "langchain", "llm"))
    programs("import_openai_agents").import_sessions(str(sessions), kit)
    programs("import_langchain").import_history(f"sqlite:///{table}", kit)
    programs("import_llm").import_log(str(log), kit)
    for path, name, prefix in (
        (sessions, "message_data FROM agent_messages", "openai-agents:"),
        (table, "message FROM message_store", "langchain:"),
    ):
        with closing(sqlite3.connect(path)) as database:
            written = [json.loads(row[0]) for row in database.execute(f"SELECT {name} WHERE session_id = 'reader-7'")]
        messages = kit.chat(f"{prefix}reader-7").messages()
        assert [message.item for message in messages] == written
    assert {str(each.created_at) for each in kit.chat("openai-agents:reader-7").messages()} == {
        "2026-11-30 16:19:16+00:00"
    }
    for key, first in ((LLM_OLD, "2026-11-30T16:25:23.991104+00:00"), (LLM_NEW, "2026-11-30T16:25:28.421673+00:00")):
        messages = kit.chat(key).messages()
        assert messages[1].created_at.isoformat() == first
        assert messages[1].item == {"role": "user", "parts": [{"type": "text", "text": messages[1].text}]}
    assert {each.key: each.title for each in kit.conversations()}[LLM_NEW] == "中央館は今日、何時までですか。"


@pytest.mark.once
@pytest.mark.parametrize("source", IMPORTS)
def test_import_programs_run_as_scripts(
    source: str,
    programs: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program creates the tables and takes both databases from its arguments."""
    module, _, scheme, _, count = IMPORTS[source]
    target = f"sqlite:///{tmp_path / 'new.db'}"
    monkeypatch.setattr(sys, "argv", [module, f"{scheme}{_make_source(source, tmp_path)}", target])
    runpy.run_path(str(CHECKOUT / "examples" / f"{module}.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert sum(int(line.rpartition(": ")[2].split()[0]) for line in lines) == count


@pytest.mark.once
def test_odd_messages_are_kept_and_not_sent(
    programs: Callable[[str], Any], kit: Convokit, server: LoopbackServer
) -> None:
    """Calls that the API refuses, old function messages and results of the server's own tools stay in the item only."""
    make_langchain = programs("langchain_messages").make_message
    make_agents = programs("import_openai_agents").make_message
    make_llm = programs("import_llm").make_messages
    calls: list[dict[str, Any]] = [
        {"name": name, "args": {}, "id": call_id} for name, call_id in (("天気", "call_1"), ("weather", None))
    ]
    search = {
        "type": "tool_call",
        "name": "web_search",
        "arguments": {},
        "tool_call_id": "srv_1",
        "server_executed": True,
    }
    found = {**search, "type": "tool_result", "output": "晴れ"}
    parts = [search, found, {"type": "reasoning", "text": "hm"}, {"type": "text", "text": "晴れです。"}]
    call = {"type": "function_call", "call_id": "call_1", "name": "天気", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "晴れ"}
    file = [{"type": "input_file", "file_id": "file-1"}, {"type": "input_text", "text": "この文書は?"}]
    blocks = ["はい", {"type": "text", "text": "。"}, {"type": "image", "base64": "iVBORw0KGgo="}]
    chat = kit.chat("odd")
    chat.append(
        [
            make_langchain({"type": "human", "data": {"content": blocks}}),
            make_langchain({"type": "ai", "data": {"content": "", "tool_calls": calls}}),
            make_langchain({"type": "tool", "data": {"content": "晴れ", "tool_call_id": "call_1"}}),
            make_langchain({"type": "function", "data": {"content": "42", "name": "f"}}),
            *(make_agents(item, "2026-11-30 16:19:16") for item in (call, output, {"role": "user", "content": file})),
            *make_llm(None, ({"role": "assistant", "parts": parts}, None)),
        ]
    )
    chat.send("次は?")
    assert server.requests[-1].body["messages"] == [
        {"role": "user", "content": "はい。"},
        {"role": "user", "content": "この文書は?"},
        {"role": "assistant", "content": "晴れです。"},
        {"role": "user", "content": "次は?"},
    ]
    assert chat.messages()[1].item["data"]["tool_calls"] == calls
    assert chat.messages()[4].item == call


@pytest.mark.once
def test_a_session_that_is_refused_does_not_stop_the_others(
    programs: Callable[[str], Any], kit: Convokit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _make_source("openai_agents", tmp_path)
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "ftp://example.org/a.png"}]}
    with closing(sqlite3.connect(path)) as database:
        values = ("a", json.dumps(image), "2026-11-30 16:19:16")
        database.execute("INSERT INTO agent_messages (session_id, message_data, created_at) VALUES (?, ?, ?)", values)
        database.commit()
    programs("import_openai_agents").import_sessions(str(path), kit)
    assert "openai-agents:a: is not imported: messages[0].content" in capsys.readouterr().out
    assert {each.key for each in kit.conversations()} == {"openai-agents:reader-7", "openai-agents:読者8"}


class SimpleMessage(SimpleNamespace):
    """What the recipes use of a message of langchain-core."""

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return dict(vars(self))


def _make_message(kind: str, content: Any, **fields: Any) -> SimpleMessage:
    return SimpleMessage(**{"type": kind, "content": content, "id": None, **fields})


def _read_shape(shape: dict[str, Any]) -> SimpleMessage:
    kinds = {"user": "human", "assistant": "ai", "tool": "tool"}
    return _make_message(kinds[shape["role"]], shape["content"])


@pytest.fixture
def langchain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The names of langchain-core that the recipes use, also where it is not installed."""
    try:
        messages = importlib.import_module("langchain_core.messages")
    except ImportError:
        base, history = ModuleType("langchain_core.messages"), ModuleType("langchain_core.chat_history")
        vars(base).update(
            HumanMessage=lambda content, **fields: _make_message("human", content, **fields),
            AIMessage=lambda content, **fields: _make_message("ai", content, **{"tool_calls": [], **fields}),
            ToolMessage=lambda content, **fields: _make_message("tool", content, **fields),
            SystemMessage=lambda content, **fields: _make_message("system", content, **fields),
            messages_from_dict=lambda items: [SimpleMessage(**item["data"]) for item in items],
            convert_to_messages=lambda shapes: [_read_shape(shape) for shape in shapes],
        )
        vars(history).update(BaseChatMessageHistory=object)
        for module in (ModuleType("langchain_core"), base, history):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        return base
    return messages


def _list_texts(messages: list[Message]) -> list[str]:
    return [message.text for message in messages]


def test_each_step_of_a_graph_is_mirrored_once(
    programs: Callable[[str], Any], langchain: Any, kit: Convokit, server: LoopbackServer
) -> None:
    """Only the new tail is written, with calls and results; a repeat writes nothing; a change becomes a branch."""
    mirror = programs("mirror").mirror
    chat = kit.chat("langgraph:1")
    call = {"name": "opening_hours", "args": {"branch": "中央"}, "id": "call_1", "type": "tool_call"}
    steps = [
        [langchain.SystemMessage("You are a librarian.", id="m0"), langchain.HumanMessage("何時まで?", id="m1")],
        [langchain.AIMessage("", id="m2", tool_calls=[call])],
        [langchain.ToolMessage("二十時に閉館します", id="m3", tool_call_id="call_1")],
        [langchain.AIMessage(HOURS, id="m4")],
    ]
    state: list[Any] = []
    for step in steps:
        state += step
        assert len(mirror(chat, state)) == len(step)
        assert mirror(chat, state) == []
    assert [message.item["data"]["id"] for message in chat.messages()] == ["m0", "m1", "m2", "m3", "m4"]

    chat.append([{"role": "assistant", "content": "A person reads along."}])  # somebody else's message stays
    state = [*state[1:], langchain.HumanMessage("はい", id="m5")]  # the graph trimmed its first message
    assert _list_texts(mirror(chat, state)) == ["はい"]
    assert len(chat.messages()) == 7

    state[-1] = langchain.HumanMessage("いいえ", id="m5")
    mirror(chat, state)
    assert _list_texts(chat.messages()[4:]) == [HOURS, "いいえ"]
    mirror(chat, state[:-1])  # the graph removed it
    assert chat.messages()[-1].text == HOURS
    assert mirror(chat, state[:-1]) == []

    assert chat.verify().messages == 8
    chat.send("次は?")
    asked = {"role": "assistant", "content": "", "tool_calls": [_call("call_1", "opening_hours", '{"branch": "中央"}')]}
    assert server.requests[-1].body["messages"] == [
        {"role": "user", "content": "何時まで?"},
        asked,
        {"role": "tool", "content": "二十時に閉館します", "tool_call_id": "call_1"},
        {"role": "assistant", "content": HOURS},
        {"role": "user", "content": "次は?"},
    ]


def test_langchain_history_keeps_messages_in_a_conversation(
    programs: Callable[[str], Any], langchain: Any, kit: Convokit, server: LoopbackServer
) -> None:
    """Messages come back as they were, beside those that convokit wrote; `clear` empties the history, and erases nothing."""
    chat = kit.chat("langchain:reader-7")
    history = programs("langchain_history").ConvokitHistory(chat)
    assert history.messages == []
    given = [
        langchain.SystemMessage("You are a librarian."),
        langchain.HumanMessage("何時まで?", name="太郎"),
        langchain.AIMessage("二十時に閉館します"),
    ]
    history.add_messages(given)
    assert history.messages == given
    chat.send("次は?")
    assert server.requests[-1].body["messages"] == _pairs("何時まで?", "二十時に閉館します", "次は?")
    assert [(each.type, each.content) for each in history.messages[3:]] == [
        ("human", "次は?"),
        ("ai", chat.messages()[-1].text),
    ]

    history.clear()
    assert history.messages == chat.messages() == []
    history.add_messages(given[1:2])
    assert history.messages == given[1:2]
    assert chat.verify().messages == 6
    chat.send("はい")
    assert server.requests[-1].body["messages"] == [*_pairs("何時まで?"), *_pairs("はい")]
    assert len(list(kit.search("閉館"))) == 1
