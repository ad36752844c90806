"""Test the scripted model through kits of both APIs, in process and over HTTP."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from convokit import AsyncConvokit, Convokit, Retry, Timeouts, tool
from convokit.errors import Interrupted, InvalidInput, RateLimited, ServerFailed, SettingsError, TimedOut
from convokit.testing import RecordedRequest, ScriptedCall, ScriptedError, ScriptedModel, ScriptedReply
from convokit.testing.script import split_text
from convokit.tokens import ExactTokens, count_message
from tests.support.faces import Face
from tests.testing.conftest import Connect

QUESTION = "開館時間を教えてください。"
WRONG: Any = 5
TEXT = "午前九時から 開いています。 Also on Sundays."


@tool
def opening_hours(day: str) -> str:
    """Return the opening hours."""
    return f"{day}: 9-20"


class Book(BaseModel):
    title: str


def test_replies_come_in_order_whole_or_streamed(connect: Connect, face: Face) -> None:
    """A stream sends words, and Japanese character by character. The text is the same."""
    kit = connect(ScriptedModel([TEXT, ScriptedReply(TEXT), ScriptedReply(["One ", "two."])]))
    chat = kit.chat("k")
    assert face.settle(chat.send(QUESTION)).text == TEXT
    shown = [event.text for event in face.collect(chat.stream("Again?")) if event.text]
    assert shown[:3] == ["午", "前", "九"]
    assert shown[-3:] == [" Also", " on", " Sundays."]
    assert "".join(shown) == TEXT
    assert [event.text for event in face.collect(chat.stream("Short?")) if event.text] == ["One ", "two."]


def test_the_end_of_the_script_is_an_error_that_is_not_retried(connect: Connect, face: Face) -> None:
    model = ScriptedModel(["one"])
    kit = connect(model, retry=Retry(attempts=3))
    face.settle(kit.chat("k").send("first"))
    with pytest.raises(ServerFailed, match="the script has no reply for request 2"):
        face.settle(kit.chat("k").send("second"))
    assert len(model.requests) == 2
    model.add("three")
    assert face.settle(kit.chat("k").resume()).text == "three"


def test_a_model_echoes_repeats_or_asks_a_function(connect: Connect, face: Face) -> None:
    parts = [
        {"type": "text", "text": "部品"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    echo = connect(ScriptedModel())
    assert face.settle(echo.chat("a").send("何ですか。")).text == "echo: 何ですか。"
    assert face.settle(echo.chat("a").send(parts)).text == "echo: 部品"
    repeat = connect(ScriptedModel(["one", "two"], at_end="repeat"))
    assert [face.settle(repeat.chat("b").send("?")).text for _ in range(3)] == ["one", "two", "two"]

    def answer(request: RecordedRequest) -> str:
        assert request.text != "forbidden"
        return f"{request.number}: {request.text}"

    asked = ScriptedModel(answer)
    asked.add("first")
    kit = connect(asked)
    assert [face.settle(kit.chat("c").send(text)).text for text in "ab"] == ["first", "2: b"]


def test_an_exception_of_the_function_reaches_the_test(sqlite_file: str) -> None:
    def answer(request: RecordedRequest) -> str:
        raise AssertionError(request.text)

    model = ScriptedModel(answer)
    with Convokit(sqlite_file, model="m", base_url="http://127.0.0.1/v1", http_client=model.client()) as kit:
        chat = kit.chat("k")
        with pytest.raises(AssertionError, match="hello"):
            chat.send("hello")
        assert [turn.state for turn in chat.turns()] == ["failed"]
    with model.serve() as url, Convokit(sqlite_file, model="m", base_url=url) as kit:
        chat = kit.chat("k2")
        with pytest.raises(ServerFailed, match="AssertionError: hello"):
            chat.send("hello")
    assert len(model.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_tools_run_and_calls_have_ids_of_their_own(connect: Connect, face: Face, stream: bool) -> None:
    """Arguments are a mapping, or a text that is sent as it is."""
    asked = [ScriptedCall("opening_hours", {"day": "土曜日"}), ScriptedCall("opening_hours", '{"day": ')]
    model = ScriptedModel([ScriptedReply(calls=asked), ScriptedCall("opening_hours", {"day": "日"}), "Until eight."])
    chat = connect(model, tools=[opening_hours]).chat("k")
    if stream:
        face.collect(chat.stream(QUESTION))
    else:
        assert face.settle(chat.send(QUESTION)).text == "Until eight."
    sent = model.last_request.messages
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert [message["tool_call_id"] for message in sent if message["role"] == "tool"] == ["call_1", "call_2", "call_3"]
    assert sent[2]["content"] == "土曜日: 9-20"
    assert sent[5]["content"] == "日: 9-20"
    messages = face.settle(chat.messages())
    assert messages[1].tool_calls[1]["function"]["arguments"] == '{"day": '


def test_errors_carry_status_code_and_headers(connect: Connect, face: Face) -> None:
    """A kit retries as with a real server."""
    limit = ScriptedError(429, "slow down", code="rate_limit_exceeded", headers={"retry-after": "0"})
    model = ScriptedModel([limit, "ok", limit])
    kit = connect(model, retry=Retry(attempts=2, initial_s=0))
    assert face.settle(kit.chat("k").send("hello")).text == "ok"
    model.add(limit)
    with pytest.raises(RateLimited, match="slow down") as caught:
        face.settle(kit.chat("k").send("hello"))
    assert (caught.value.code, caught.value.retry_after_s) == ("rate_limit_exceeded", 0)
    assert len(model.requests) == 4


@pytest.mark.parametrize("count", [0, 2])
def test_a_stream_breaks_after_some_chunks(connect: Connect, face: Face, count: int) -> None:
    """The partial text is kept. A whole reply breaks too."""
    broken = ScriptedReply(["One ", "two ", "three"], break_after=count)
    chat = connect(ScriptedModel([broken, "whole", broken])).chat("k")
    with pytest.raises(Interrupted) as caught:
        face.collect(chat.stream("count"))
    assert caught.value.partial == "One two "[: 4 * count]
    assert face.settle(chat.resume()).text == "whole"
    with pytest.raises(Interrupted):
        face.settle(chat.send("again"))


def test_late_answers_and_chunks_run_into_the_timeouts(connect: Connect, face: Face) -> None:
    late, slow = ScriptedReply("late", delay_s=30), ScriptedReply("a b c", pause_s=30)
    chat = connect(ScriptedModel([late, slow]), timeouts=Timeouts(first_byte_s=0.05, stall_s=0.05)).chat("k")
    with pytest.raises(TimedOut) as caught:
        face.collect(chat.stream("hello"))
    assert caught.value.phase == "first_byte"
    with pytest.raises(TimedOut) as caught:
        face.collect(chat.stream("hello"))
    assert caught.value.phase == "stall"


def test_refusal_reasoning_and_finish_reason(connect: Connect, face: Face) -> None:
    model = ScriptedModel(
        [ScriptedReply(refusal="I will not."), ScriptedReply("Yes", reasoning="Let me think."), "cut"]
    )
    chat = connect(model).chat("k")
    assert face.settle(chat.send("a")).message.refusal == "I will not."
    events = face.collect(chat.stream("b"))
    assert "".join(event.reasoning for event in events if event.type == "reasoning") == "Let me think."
    model = ScriptedModel([ScriptedReply("cut", finish_reason="length")])
    assert face.settle(connect(model).chat("k").send("c")).finish == "cut"


def test_structured_output(connect: Connect, face: Face) -> None:
    model = ScriptedModel(['{"title": "こころ"}'])
    reply = face.settle(connect(model).chat("k").send("Which book?", response_format=Book))
    assert reply.parsed == Book(title="こころ")
    assert model.last_request.body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("stream", [False, True])
def test_usage_is_what_the_model_of_the_request_counts(connect: Connect, face: Face, stream: bool) -> None:
    """Prompt, tools and messages count as in the report of the context, and the reply as its text."""
    answers = ["午前九時からです。", "Until eight."]
    kit = connect(ScriptedModel(answers * 3), tools=[opening_hours], developer_prompt="一文で答えてください。")
    for model_name in ("gpt-4o", "qwen3-8b", "my-model"):
        chat = kit.chat(model_name, model=model_name)
        for text, answer in zip((QUESTION, "And until?"), answers, strict=True):
            context = face.settle(chat.context(text))
            if stream:
                events = chat.stream(text)
                face.collect(events)
                reply = events.reply
            else:
                reply = face.settle(chat.send(text))
            assert reply.usage.prompt_tokens == context.report.counted
            assert reply.usage.completion_tokens == _count(model_name, answer)
            assert reply.usage.source == "reported"


def _count(model_name: str, text: str) -> int:
    vocabulary: Any = {"qwen3-8b": "qwen3"}.get(model_name, "o200k_base")
    return ExactTokens(vocabulary).count(text)


def test_usage_of_ones_own_or_none(connect: Connect, face: Face) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    chat = connect(ScriptedModel([ScriptedReply("a", usage=usage), ScriptedReply("b", usage={})])).chat("k")
    assert face.settle(chat.send("a")).usage.prompt_tokens == 7
    assert face.settle(chat.send("b")).usage.source == "absent"


def test_requests_are_recorded_and_show_no_key(connect: Connect, face: Face) -> None:
    model = ScriptedModel()
    with pytest.raises(LookupError, match="no request"):
        _ = model.last_request
    kit = connect(model, api_key="sk-secret-0123456789", developer_prompt="Be brief.")
    face.settle(kit.chat("k").send("hello", temperature=0.5, extra_headers={"X-Team": "desk"}))
    [request] = model.requests
    assert request == model.last_request
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-secret-0123456789"
    assert request.headers["x-team"] == "desk"
    assert "sk-secret" not in repr(model.requests)
    assert request.body["temperature"] == 0.5
    assert request.messages[-1] == {"role": "user", "content": "hello"}


def test_a_paused_stream_shows_its_chunks_one_at_a_time(sqlite_file: str) -> None:
    """In process the model makes a chunk when the kit asks for it: a test needs no times."""
    model = ScriptedModel(["one two three", "next"])
    with Convokit(sqlite_file, model="m", base_url="http://127.0.0.1/v1", http_client=model.client()) as kit:
        chat = kit.chat("k")
        with chat.stream("count") as events:
            texts = (event.text for event in events if event.text)
            assert list(itertools.islice(texts, 2)) == ["one", " two"]
        assert (chat.messages()[-1].text, chat.messages()[-1].status) == ("one two", "partial")
        assert chat.send("go on").text == "next"


def test_the_openai_package_is_a_client_of_the_url() -> None:
    """Plain and streamed replies, usage, tools, errors and models of the official client."""
    call = ScriptedCall("opening_hours", {"day": "土"})
    model = ScriptedModel([TEXT, TEXT, call, ScriptedError(400, "no such thing", code="bad"), "last"])
    messages: Any = [{"role": "user", "content": QUESTION}]
    with model.serve() as url, openai.OpenAI(base_url=url, api_key="sk-test", max_retries=0) as client:
        whole = client.chat.completions.create(model="gpt-4o", messages=messages)
        assert whole.choices[0].message.content == TEXT
        chunks = list(
            client.chat.completions.create(
                model="gpt-4o", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
        assert chunks[-1].usage == whole.usage
        asked = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
        names = [each.function for chunk in asked for each in chunk.choices[0].delta.tool_calls or []]
        assert names[0] is not None
        assert names[0].name == "opening_hours"
        with pytest.raises(openai.BadRequestError, match="no such thing"):
            client.chat.completions.create(model="gpt-4o", messages=messages)
        with pytest.raises(openai.NotFoundError, match="POST /chat/completions only, not GET /v1/models"):
            client.models.list()
        plain = list(client.chat.completions.create(model="gpt-4o", messages=messages, stream=True))
        assert not any(chunk.usage for chunk in plain)
    assert len(model.requests) == 5


def test_a_client_that_leaves_and_the_end_of_the_block_end_a_slow_answer() -> None:
    """The thread of the server ends with the block, although an answer waits."""
    model = ScriptedModel([ScriptedReply("late", delay_s=300), ScriptedReply("a b c", pause_s=300)])
    with model.serve() as url:
        for stream in (False, True):
            client = openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=0.1)
            with pytest.raises(openai.APITimeoutError), client:
                list(client.chat.completions.create(model="m", messages=[], stream=stream))


def test_an_endless_generator_is_asked_by_one_thread_at_a_time(sqlite_file: str) -> None:
    """Its replies come when they are asked for, behind those that were added."""

    def count() -> Iterator[str]:
        for number in itertools.count(1):
            time.sleep(0.001)
            yield f"reply {number}"

    model = ScriptedModel(count())
    model.add("first")
    with Convokit(sqlite_file, model="m", api_key="k", http_client=model.client()) as kit:
        assert kit.chat("k").send(QUESTION).text == "first"
        with ThreadPoolExecutor(8) as pool:
            texts = list(pool.map(lambda number: kit.chat(f"{number}").send(QUESTION).text, range(16)))
    assert sorted(texts) == sorted(f"reply {number}" for number in range(1, 17))


@pytest.mark.parametrize("at_end", ["error", "repeat"])
def test_the_end_of_a_generator_is_the_end_of_the_script(sqlite_file: str, at_end: Any) -> None:
    model = ScriptedModel((each for each in ("one", "two")), at_end=at_end)
    with Convokit(sqlite_file, model="m", api_key="k", http_client=model.client()) as kit:
        chat = kit.chat("k")
        assert [chat.send(QUESTION).text for _ in range(2)] == ["one", "two"]
        if at_end == "repeat":
            assert chat.send(QUESTION).text == "two"
            return
        with pytest.raises(ServerFailed, match="no reply for request 3"):
            chat.send(QUESTION)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nx: " + b"x" * 100_000,
    ],
)
def test_what_is_no_request_gets_status_400(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    model = ScriptedModel()
    with model.serve() as url, socket.create_connection(("127.0.0.1", int(urlsplit(url).port or 0))) as connection:
        connection.sendall(data)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert (model.requests, caplog.records) == ([], [])


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([1], "not 1"),
        ([None], "not None"),
        ([["a"]], r"not \['a'\]"),
        ("hello", "must be a list of replies or a function, not 'hello'"),
        (ScriptedReply("hello"), "must be a list of replies or a function"),
    ],
)
def test_a_wrong_script_is_refused_at_once(script: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        ScriptedModel(script)
    with pytest.raises(SettingsError, match='must be "error", "echo" or "repeat"'):
        ScriptedModel([], at_end="loop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            lambda: ScriptedReply(WRONG),
            SettingsError,
            "ScriptedReply.text: must be a text, a list of texts or None, not 5",
        ),
        (
            lambda: ScriptedReply(calls=WRONG),
            SettingsError,
            "ScriptedReply.calls: must be a list of ScriptedCall, not 5",
        ),
        (lambda: ScriptedCall("a", WRONG), SettingsError, "ScriptedCall.arguments: must be a mapping or a text, not 5"),
        (lambda: ScriptedCall("a", {"日": {1}}), InvalidInput, "ScriptedCall.arguments.日"),
    ],
)
def test_a_wrong_reply_is_refused_where_it_is_made(
    make: Callable[[], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        make()


def test_a_client_of_the_other_api_is_refused(sqlite_file: str) -> None:
    model = ScriptedModel()
    with pytest.raises(SettingsError, match="a client like HttpxClient here, not AsyncScriptedClient"):
        Convokit(sqlite_file, http_client=model.async_client())  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="a client like AsyncHttpxClient here, not ScriptedClient"):
        AsyncConvokit(sqlite_file, http_client=model.client())  # type: ignore[arg-type]


@given(st.text())
def test_chunks_of_a_text_are_the_text(text: str) -> None:
    assert "".join(split_text(text)) == text


def test_messages_count_with_the_counter_of_the_model() -> None:
    """The count is that of the public functions."""
    model = ScriptedModel()
    message: Any = {"role": "user", "content": QUESTION}
    with model.serve() as url, openai.OpenAI(base_url=url, api_key="k") as client:
        usage = client.chat.completions.create(model="gpt-4o", messages=[message]).usage
    assert usage is not None
    assert usage.prompt_tokens - count_message(ExactTokens(), message) in range(1, 8)
