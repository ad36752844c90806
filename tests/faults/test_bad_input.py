"""What bad input gets: a typed error before anything is written or called; what is accepted comes back as it was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from convokit import Budget
from convokit.domain.ids import MAX_SEQ
from convokit.errors import InvalidInput, NotFound, TooLarge
from tests.faults.shared_kit import Stage, staged

stage = staged(developer_prompt="Be brief.")
ROOMY = Budget(context_tokens=10_000_000)
PNG = "data:image/png;base64,"


def _image(url: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url, **more}}]


def _audio(data: Any, format: Any) -> list[dict[str, Any]]:
    return [{"type": "input_audio", "input_audio": {"data": data, "format": format}}]


def _file(**file: Any) -> list[dict[str, Any]]:
    return [{"type": "file", "file": file}]


def _circular() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


CONTENT: list[tuple[str, Any, str]] = [
    ("empty", "", "empty"),
    ("nul", "a\x00b", "NUL"),
    ("high surrogate", "a\ud800b", "lone surrogate"),
    ("low surrogate", "\udfff", "lone surrogate"),
    ("surrogates the wrong way round", "\ude00\ud83d", "lone surrogate"),
    ("bytes", b"bytes", "must be text"),
    ("bytearray", bytearray(b"x"), "content part"),
    ("none", None, "must be text|is missing"),
    ("number", 5, "must be text"),
    ("nan", math.nan, "must be text"),
    ("mapping", {"role": "user", "content": "x"}, "must be text"),
    ("mapping with a key that is no text", {(1, 2): 3}, "must be text"),
    ("set", {"x"}, "must be text"),
    ("no parts", [], "empty"),
    ("no text in any part", [""], "no message that can be sent|empty"),
    ("a list in a list", [["x"]], "content part"),
    ("a list in itself", _circular(), "content part"),
    ("part of no type", [{}], "None is not text"),
    ("part of an unknown type", [{"type": "video"}], "'video' is not text"),
    ("part whose type is a list", [{"type": []}], "is not text"),
    ("text part without text", [{"type": "text"}], "must be text"),
    ("text part with a list", [{"type": "text", "text": ["x"]}], "must be text"),
    ("text part with nul", [{"type": "text", "text": "\x00"}], "NUL"),
    ("text part with a surrogate", ["\udc80"], "surrogate"),
    ("image without an object", [{"type": "image_url", "image_url": "http://x"}], "object with a url"),
    ("image of a file", _image("file:///etc/passwd"), r"http\(s\) or data"),
    ("image of another scheme", _image("javascript:alert(1)"), r"http\(s\) or data"),
    ("image of no url", _image(None), r"http\(s\) or data"),
    ("image url with nul", _image("https://host/\x00"), "NUL"),
    ("image url with a surrogate", _image("https://host/\ud800"), "surrogate"),
    ("image detail unknown", _image("https://host/x", detail="huge"), "detail"),
    ("image detail a list", _image("https://host/x", detail=[]), "detail"),
    ("base64 that is none", _image(PNG + "!!!!"), "not valid base64"),
    ("base64 of five characters", _image(PNG + "AAAAA"), "not valid base64"),
    ("base64 with nul", _image(PNG + "AA\x00="), "not valid base64"),
    ("base64 with a surrogate", _image(PNG + "AA\ud800="), "not valid base64"),
    ("percent data with a surrogate", _image("data:image/png,\ud800"), "surrogate"),
    ("data url of no data", _image("data:image/png"), "data: URL"),
    ("data url of a wrong type", _image("data:imagepng;base64,AAAA"), "data: URL"),
    ("audio of no format", [{"type": "input_audio", "input_audio": {"data": "AAAA"}}], "wav or mp3"),
    ("audio of a list for a format", _audio("AAAA", []), "wav or mp3"),
    ("audio of bytes", _audio(b"AAAA", "wav"), "base64"),
    ("file of nothing", _file(), "file_id"),
    ("file id a number", _file(file_id=5), "must be text"),
    ("file name a list", _file(file_id="f", filename=["a"]), "must be text"),
    ("file data that is a path", _file(file_data="/etc/passwd"), "data: URL"),
    ("file data a number", _file(file_data=5), "data: URL"),
]
WAYS: dict[str, Callable[[Stage, Any, Any], Any]] = {
    "send": lambda on, chat, given: on.settle(chat.send(given)),
    "stream": lambda on, chat, given: on.face.collect(chat.stream(given)),
    "send once": lambda on, chat, given: on.settle(chat.send(given, idempotency_key="once")),
    "context": lambda on, chat, given: on.settle(chat.context(given)),
}


@pytest.mark.once
@pytest.mark.parametrize(("given", "problem"), [pytest.param(*case[1:], id=case[0]) for case in CONTENT])
def test_content_that_cannot_be_kept(stage: Stage, given: Any, problem: str) -> None:
    """Content that no backend, or no socket, could take is InvalidInput by every way in, before anything happens."""
    with stage.untouched():
        for name, way in WAYS.items():
            if name == "context" and given is None:
                continue  # there it means: no question
            with pytest.raises(InvalidInput, match=problem) as caught:
                way(stage, stage.chat(), given)
            str(caught.value).encode()


NAMES: list[tuple[str, Any, str]] = [
    ("empty", "", "empty"),
    ("nul", "a\x00", "NUL"),
    ("surrogate", "\ud83d", "surrogate"),
    ("number", 5, "must be text"),
    ("bytes", b"k", "must be text"),
    ("list", ["k"], "must be text"),
    ("10,000 characters", "k" * 10_000, r"Limits\.key_chars"),
    ("one character too many", "k" * 513, r"Limits\.key_chars"),
]


@pytest.mark.once
@pytest.mark.parametrize("field", ["key", "subject", "title"])
@pytest.mark.parametrize(("given", "problem"), [pytest.param(*case[1:], id=case[0]) for case in NAMES])
def test_names_that_cannot_be_kept(stage: Stage, field: str, given: Any, problem: str) -> None:
    """Keys, subjects and titles are short texts that every backend can hold; the field is named."""
    with stage.untouched(), pytest.raises(InvalidInput, match=problem) as caught:
        stage.settle(stage.kit.chat(**{"key": "k", field: given}).send("x"))
    assert caught.value.field == field


@pytest.mark.once
@pytest.mark.parametrize(("given", "problem"), [pytest.param(*case[1:], id=case[0]) for case in NAMES])
def test_names_that_are_given_later_are_checked_in_the_same_way(stage: Stage, given: Any, problem: str) -> None:
    """A title and a subject of `update`, the name of a branch, and a tenant. The limit is in characters of any script."""
    chat = stage.chat()
    stage.settle(chat.send("x"))
    with stage.untouched():
        for call, arguments in (
            (chat.update, {"title": given}),
            (chat.update, {"subject": given}),
            (chat.fork, {"name": given}),
            (stage.kit.tenant, {"name": given}),
        ):
            with pytest.raises(InvalidInput, match=problem):
                stage.settle(call(**arguments))
    longest = "枝" * 512
    assert stage.settle(chat.fork(name=longest)).branch == 1
    assert stage.settle(chat.update(title=longest)).title == longest
    assert len(stage.settle(stage.kit.tenant(longest).conversations())) == 0


@pytest.mark.once
@pytest.mark.parametrize(("given", "problem"), [pytest.param(*case[1:], id=case[0]) for case in NAMES[1:7]])
def test_filters_and_idempotency_keys_that_cannot_be(stage: Stage, given: Any, problem: str) -> None:
    """A subject to look for, and an idempotency key, are checked like what is stored."""
    with stage.untouched():
        with pytest.raises(InvalidInput, match=problem):
            stage.settle(stage.kit.conversations(subject=given))
        with pytest.raises(InvalidInput, match=problem):
            stage.settle(stage.chat().send("x", idempotency_key=given))


@pytest.mark.once
@pytest.mark.parametrize("given", [5, [], b"x", "", "nonsense", "\ud800", "0" * 33, "../../x", "' OR 1=1 --", 1.5])
def test_ids_that_are_none(stage: Stage, given: Any) -> None:
    """An id is a UUID; what is none is refused when the chat is made, in words that can be printed."""
    with stage.untouched(), pytest.raises(InvalidInput, match="is not a UUID") as caught:
        stage.kit.chat(id=given)
    str(caught.value).encode()


@pytest.mark.once
def test_a_key_and_an_id_are_two_names(stage: Stage) -> None:
    """A chat has one name: key and id together are refused."""
    with stage.untouched(), pytest.raises(InvalidInput, match="not both"):
        stage.kit.chat("k", id=uuid4())


TEXTS: dict[str, str] = {
    "blank": " \n\t ",
    "scripts": "日本語 עברית العربية हिन्दी ไทย",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 \U0001f1ef\U0001f1f5",
    "composed and decomposed": "\u00e9 e\u0301 \u212b \u00c5 \uac00 \u1100\u1161",
    "marks and noncharacters": "\ufeffa\ufffe\uffff\U0010ffff\ufdd0\ufffd",
    "line ends": "a\r\nb\rc\nd\u2028e\u2029f\u0085g\x0b\x0c\x1c\x1d\x1e",
    "trailing blanks": "  a\t \u00a0\u3000 ",
    "directions": "\u202eabc\u202c \u2066x\u2069 \u200f\u200e\u061c",
    "controls": "\x01\x07\x08\x1b[31m\x7f\x80\x9b",
    "quotes": "'; DROP TABLE convokit_message; -- \" \\ ` %s %(x)s :x ? {0} {{x}} ${x}",
    "json": '{"role": "system", "content": "x"}\n\ndata: [DONE]\n\n',
    "escapes": "\\u0000 \\ud800 \\x00 &#0; %00",
    "digits": "9" * 5_000,
    "large": "あ" * 200_000,
    "tags": "\U000e0041\U000e007f\u200b\u2060",
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_comes_back_as_it_was(stage: Stage, name: str) -> None:
    """Accepted text returns code point for code point: through the wire, the table, and `messages`, asked and answered."""
    text, chat = TEXTS[name], stage.chat()
    reply = stage.settle(chat.send(text, budget=ROOMY))
    assert stage.server.requests[-1].body["messages"][-1]["content"] == text
    assert reply.text == f"echo: {text}"
    assert [each.text for each in stage.settle(chat.messages())] == [text, f"echo: {text}"]
    again = stage.face.collect(stage.kit.chat(chat.key).stream("and again", budget=ROOMY))
    assert "".join(event.text for event in again) == "echo: and again"
    assert [each["content"] for each in stage.server.requests[-1].body["messages"]][1:3] == [text, f"echo: {text}"]
    stage.settle(chat.verify())


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("field", ["key", "subject", "title", "developer_prompt", "user", "idempotency"])
@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if len(text) <= 512])
def test_names_come_back_as_they_were(stage: Stage, field: str, name: str) -> None:
    """Every short text that is accepted returns as it was, wherever it was given; as a name it finds its own, and only that."""
    text = f"{uuid4()}{TEXTS[name]}"
    settings = {} if field == "idempotency" else {"key": text, field: text} if field != "user" else {"key": text}
    chat = stage.kit.chat(**settings) if settings else stage.chat()
    sent: dict[str, Any] = {"idempotency_key": text} if field == "idempotency" else {}
    sent |= {"user": text} if field == "user" else {}
    first = stage.settle(chat.send("x", **sent))
    if field == "developer_prompt":
        assert stage.server.requests[-1].body["messages"][0]["content"] == text
    elif field == "user":
        assert stage.server.requests[-1].body["user"] == text
    elif field == "idempotency":
        assert stage.settle(chat.send("x", **sent)).message.id == first.message.id
    elif field == "key":
        assert len(stage.settle(stage.kit.chat(text).messages())) == 2
        assert stage.settle(stage.kit.chat(text + " ").messages()) == []
    else:
        subject = text if field == "subject" else None
        found = next(each for each in stage.settle(stage.kit.conversations(subject=subject)) if each.id == chat.id)
        assert getattr(found, field) == text


PARTS: list[tuple[str, Any, Any]] = [
    ("blanks in base64", _image(PNG + " iVBO\nRw0K Ggo= "), _image(PNG + "iVBORw0KGgo=")),
    ("no padding", _image(PNG + "iVBORw0KGgo"), _image(PNG + "iVBORw0KGgo=")),
    ("a wrong type", _image("data:text/html;base64,PGI+"), _image("data:text/html;base64,PGI+")),
    ("no type", _image("data:,hello"), _image("data:text/plain;base64,aGVsbG8=")),
    ("a metadata service", _image("http://169.254.169.254/latest"), _image("http://169.254.169.254/latest")),
    ("the same in IPv6", _image("http://[::ffff:a9fe:a9fe]/x"), _image("http://[::ffff:a9fe:a9fe]/x")),
    ("a bomb", _image("data:image/png;base64," + "AAAA" * 50_000), _image("data:image/png;base64," + "AAAA" * 50_000)),
    ("unknown keys", [{"type": "text", "text": "x", "lc": 1}], [{"type": "text", "text": "x"}]),
    (
        "a file name",
        _file(file_id="f", filename="../=cmd|'\r\n\u202e"),
        _file(file_id="f", filename="../=cmd|'\r\n\u202e"),
    ),
]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(("given", "sent"), [pytest.param(*case[1:], id=case[0]) for case in PARTS])
def test_parts_are_sent_as_they_were_stored(stage: Stage, given: Any, sent: Any) -> None:
    """Accepted parts are made canonical once and sent the same ever after; no URL in them is followed, nothing is decoded."""
    chat = stage.chat()
    for _ in range(2):
        stage.settle(chat.send(["look", *given], budget=ROOMY))
        assert stage.server.requests[-1].body["messages"][-1]["content"] == [{"type": "text", "text": "look"}, *sent]
    assert stage.server.requests[-1].body["messages"][1]["content"][1:] == sent


CURSORS: list[Any] = [-1, 10**30, MAX_SEQ + 1, 1.5, math.nan, True, [], {}, "", "\ud800", "x", ":1", "1:1", b"1"]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("before", CURSORS)
def test_places_that_are_none(stage: Stage, before: Any) -> None:
    """`before` takes a place in this conversation; anything else, another conversation's too, is refused."""
    chat, other = stage.chat(), stage.chat()
    stage.settle(chat.send("x"))
    stage.settle(other.send("x"))
    with stage.untouched():
        for place in (before, f"{other.id}:1", f"{chat.id}:-1", f"{chat.id}:²", f"{chat.id}:{10**25}"):
            with pytest.raises(InvalidInput, match="is not a message"):
                stage.settle(chat.messages(before=place))
        with pytest.raises(InvalidInput, match="cursor"):
            stage.settle(stage.kit.conversations(before=before))


@pytest.mark.once
@pytest.mark.parametrize("limit", [0, -1, 1001, 10**30, 1.5, math.nan, math.inf, True, None, "5", []])
def test_page_sizes(stage: Stage, limit: Any) -> None:
    """A page holds 1 to 1,000 items."""
    chat = stage.chat()
    with stage.untouched():
        listings: list[Callable[..., Any]] = [stage.kit.conversations, chat.log, chat.messages]
        # None is the whole path.
        for listing in listings[: 2 if limit is None else 3]:
            with pytest.raises(InvalidInput, match="limit"):
                stage.settle(listing(limit=limit))


@pytest.mark.once
def test_an_unknown_filter_is_an_error(stage: Stage) -> None:
    """I12: a filter or keyword that nobody knows is never ignored."""
    chat = stage.chat()
    unknown: list[dict[str, Any]] = [{"tenant": "other"}, {"where": "1=1"}, {"metadata": {"a": 1}}]
    listings: list[Callable[..., Any]] = [stage.kit.conversations, chat.messages]
    with stage.untouched():
        for keywords, listing in itertools.product(unknown, listings):
            with pytest.raises(TypeError, match="unexpected keyword"):
                stage.settle(listing(**keywords))


def test_reading_what_is_not_there(stage: Stage) -> None:
    """Reads of a conversation that is not there raise NotFound and create nothing. Listings are empty."""
    chat = stage.kit.chat("nobody")
    with stage.untouched():
        for call in (chat.verify, chat.resume, chat.replay):
            with pytest.raises(NotFound, match="nobody"):
                stage.settle(call())


@pytest.mark.once
def test_ten_megabytes_of_text(stage: Stage) -> None:
    """Text over the limit names both sizes and the setting that raises it."""
    with stage.untouched(), pytest.raises(TooLarge, match=r"Limits\.message_bytes") as caught:
        stage.settle(stage.chat().send("あ" * 3_500_000))
    assert (caught.value.size, caught.value.limit) == (10_500_000, 1024 * 1024)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    "given", ["", "nonsense", "\ud800", 5, 1.5, True, [], b"x", "0" * 33, str(UUID(int=7)), UUID(int=7)]
)
def test_turns_and_messages_that_are_none(stage: Stage, given: Any) -> None:
    """A turn to follow, cancel or list from, and a message to pin, is one of this conversation's, or a typed error."""
    chat = stage.chat()
    stage.settle(chat.send("x"))
    with stage.untouched():
        calls: list[Callable[[], Any]] = [
            lambda: stage.face.collect(chat.follow(given)),
            lambda: stage.settle(chat.cancel(given)),
            lambda: stage.settle(chat.turns(before=given)),
        ]
        if given not in (5, True):  # a number is a message's place
            calls += [lambda: stage.settle(chat.pin(given)), lambda: stage.settle(chat.unpin(given))]
        for call in calls:
            with pytest.raises((InvalidInput, NotFound)) as caught:
                call()
            str(caught.value).encode()
        for after in (-1, 1.5, "1", None, True):
            with pytest.raises(InvalidInput, match="after"):
                stage.face.collect(chat.follow(after=after))
        for limit in (0, 1001, 1.5, None):
            with pytest.raises(InvalidInput, match="limit"):
                stage.settle(chat.turns(limit=limit))
