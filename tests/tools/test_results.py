"""Format results and errors of tools as text for the model."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import types
import uuid
from collections import OrderedDict, deque
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, field_serializer

from convokit.errors import BadArguments
from convokit.tools.results import format_error, format_result

LIMIT = 32 * 1024


class Place(BaseModel):
    name: str
    secret: SecretStr = SecretStr("s3cret")

    @field_serializer("name", when_used="json")
    def shout(self, name: str) -> str:
        """Names are told loud."""
        return name.upper()


@dataclasses.dataclass
class Point:
    x: int
    label: str = "東"


class Color(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    HI = "hi"


@pytest.mark.parametrize("text", ["", "plain", "東京 👩‍👩‍👧", '{"a": 1}', "null", "\n"])
def test_text_result_is_not_quoted(text: str) -> None:
    assert format_result(text, LIMIT) == text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (10**30, str(10**30)),
        (1.5, "1.5"),
        (float("nan"), '"NaN"'),
        (float("-inf"), '"-Infinity"'),
        ([], "[]"),
        ({"a": [1, "é"], "b": None}, '{"a":[1,"é"],"b":null}'),
        ({1: "a", None: "b"}, '{"1":"a","None":"b"}'),
        ((1, 2), "[1,2]"),
        ({5}, "[5]"),
        (deque([1]), "[1]"),
        (range(3), "[0,1,2]"),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (types.MappingProxyType({"a": 1}), '{"a":1}'),
        (Place(name="a"), '{"name":"A","secret":"**********"}'),
        (Point(1), '{"x":1,"label":"東"}'),
        ([Place(name="b"), Point(2)], '[{"name":"B","secret":"**********"},{"x":2,"label":"東"}]'),
        (Color.RED, '"red"'),
        (Word.HI, "hi"),
        ({Color.RED: Word.HI}, '{"red":"hi"}'),
        (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), '"2026-01-02T03:04:00Z"'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (datetime.timedelta(minutes=5), '"PT5M"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.50"), '"1.50"'),
        (PurePosixPath("/a/b"), '"/a/b"'),
        (b"abc \xe6\x9d\xb1", '"abc 東"'),
        (b"\xff\x00", '"/wA="'),
        ([b"ok", b"\xff", bytearray(b"\xfe")], '["ok","/w==","/g=="]'),
    ],
)
def test_value_becomes_compact_json(value: Any, told: str) -> None:
    """Without spaces, non-ASCII characters as they are."""
    assert format_result(value, LIMIT) == told


def test_nul_and_lone_surrogates_are_replaced() -> None:
    """By U+FFFD, in text and inside values. File names may contain them."""
    assert format_result("a\ud800b\x00", LIMIT) == "a\ufffdb\ufffd"
    assert (
        format_result(["a\udcff", {"\ud800": Point(1, "\udfff")}, Path("\udcfe")], LIMIT)
        == '["a\ufffd",{"\ufffd":{"x":1,"label":"\ufffd"}},"\ufffd"]'
    )


class Refuses(BaseModel):
    a: int = 1

    @field_serializer("a")
    def refuse(self, a: int) -> int:
        """Fail."""
        raise RuntimeError("no")


def itself() -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> dict[str, Any]:
    """Far too deep for anyone."""
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [object(), {"a": object()}, lambda: 1, itself(), Refuses(), ValueError("x")],
    ids=lambda value: type(value).__name__,
)
def test_value_that_is_not_json_serializable_becomes_an_error(value: Any) -> None:
    """The error names the type. Nothing is raised."""
    told = json.loads(format_result(value, LIMIT))
    assert set(told) == {"error"}
    assert type(value).__name__ in told["error"]
    assert "is not JSON serializable" in told["error"]


def test_deeply_nested_value_becomes_an_error() -> None:
    assert "error" in json.loads(format_result(deep(), LIMIT))


def test_long_result_is_cut_and_marked() -> None:
    """The mark has the bytes that were cut and the size. The text is within the limit."""
    text = format_result("x" * 73_728, 32_768)
    assert len(text) <= 32_768
    kept = text.count("x")
    assert text.endswith(f"… [cut: {73_728 - kept:,} of 73,728 bytes]")
    assert kept > 32_700
    assert format_result("x" * 32_768, 32_768) == "x" * 32_768


def test_long_json_is_cut_and_marked() -> None:
    text = format_result(list(range(1_000)), 100)
    assert text.startswith("[0,1,2")
    assert text.endswith("bytes]")
    assert len(text.encode()) <= 100


@given(st.text(st.characters(), max_size=300), st.integers(0, 200))
def test_cut_keeps_the_limit_and_whole_characters(text: str, limit: int) -> None:
    """Property test: for any text and limit."""
    told = format_result(text, limit)
    whole = format_result(text, 1_000_000)
    size = len(told.encode("utf-8"))
    assert size <= limit
    if told == whole:
        return
    assert len(whole.encode("utf-8")) > limit
    kept, mark, rest = told.rpartition("… [cut: ")
    assert whole.startswith(kept if mark else told)
    if mark:
        cut, of = (int(number.replace(",", "")) for number in rest.removesuffix(" bytes]").split(" of "))
        assert of == len(whole.encode("utf-8"))
        assert cut == of - len(kept.encode("utf-8"))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters())
        | st.binary()
        | st.dates()
        | st.uuids(),
        lambda of: st.lists(of) | st.dictionaries(st.text(st.characters()), of) | st.tuples(of),
        max_leaves=20,
    )
)
def test_any_value_becomes_storable_text(value: Any) -> None:
    """Property test: valid UTF-8 without NUL, JSON unless it was text. The value does not change."""
    before = repr(value)
    told = format_result(value, LIMIT)
    assert "\x00" not in told
    told.encode("utf-8")
    if not isinstance(value, str):
        json.loads(told)
    assert repr(value) == before


# --- errors


def test_error_is_json_with_type_and_message() -> None:
    assert json.loads(format_error(ValueError("bad 東"))) == {"error": "ValueError: bad 東"}
    assert json.loads(format_error(KeyError("city"))) == {"error": "KeyError: 'city'"}
    assert json.loads(format_error(ValueError())) == {"error": "ValueError"}
    told = json.loads(format_error(BadArguments("pay", "amount: is missing")))["error"]
    assert told == "BadArguments: tool 'pay': amount: is missing"


def test_error_has_no_traceback() -> None:
    """Neither files nor lines nor causes."""

    def fail() -> None:
        """Fail twice."""
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert json.loads(format_error(caught.value)) == {"error": "RuntimeError: outer"}


class Mute(Exception):
    """Its own text cannot be made."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def test_error_without_message_is_its_type() -> None:
    """Also an exception whose `__str__` fails."""
    assert json.loads(format_error(Mute())) == {"error": "Mute"}


@given(st.text(st.characters()) | st.text(st.sampled_from('\n"\\\x01é東'), min_size=900, max_size=4_000))
def test_error_has_at_most_2000_characters(said: str) -> None:
    """Property test: however much of it must be escaped."""
    told = format_error(RuntimeError(said))
    assert len(told) <= 2_000
    told.encode("utf-8")
    message = json.loads(told)["error"]
    assert message.startswith("RuntimeError")
    if len(said) > 2_000:
        assert message.endswith("…")
        assert len(told) > 1_990
