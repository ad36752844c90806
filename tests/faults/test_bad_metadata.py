"""Metadata: JSON that means the same on every backend, or a typed error that names what does not."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import pytest

from convokit.errors import InvalidInput
from tests.faults.shared_kit import EACH_ONCE, Stage, circle, nested, staged

stage = staged(EACH_ONCE)
METADATA: list[tuple[str, Any, str]] = [
    ("infinity", {"a": {"b": [1, math.inf]}}, r"metadata\.a\.b\[1\]"),
    ("nan", {"a": math.nan}, r"metadata\.a"),
    ("1e400", {"a": float("1e400")}, r"metadata\.a"),
    ("beyond 2**53", {"a": 2**53 + 1}, r"2\*\*53"),
    ("below -2**53", {"a": -(2**53) - 1}, r"2\*\*53"),
    ("10**400", {"a": 10**400}, r"2\*\*53"),
    ("5,000 digits", {"a": 10**5000}, r"2\*\*53"),
    ("a key that is a number", {"a": {1: 2}}, "must be text"),
    ("a key that is None", {None: 2}, "must be text"),
    ("nul", {"a": "\x00"}, "NUL"),
    ("nul in a key", {"a\x00": 1}, "NUL"),
    ("surrogate", {"a": ["\ud800"]}, "surrogate"),
    ("surrogate in a key", {"\ud800": 1}, "surrogate"),
    ("bytes", {"a": b"x"}, "bytes is not JSON"),
    ("set", {"a": {1}}, "set is not JSON"),
    ("datetime", {"a": datetime.now(UTC)}, "datetime is not JSON"),
    ("decimal", {"a": Decimal(1)}, "Decimal is not JSON"),
    ("uuid", {"a": UUID(int=0)}, "UUID is not JSON"),
    ("33 deep", nested(40), "nested too deeply"),
    ("3,000 deep", nested(3_000), "nested too deeply"),
    ("itself", circle(), "nested too deeply"),
    ("a list", [1], "must be a mapping"),
    ("text", "{}", "must be a mapping"),
    ("64 KiB", {"a": "x" * 65_536}, r"Limits\.metadata_bytes"),
]


@pytest.mark.once
@pytest.mark.parametrize(("given", "problem"), [pytest.param(*case[1:], id=case[0]) for case in METADATA])
def test_metadata_that_cannot_be_kept(stage: Stage, given: Any, problem: str) -> None:
    """Metadata must be JSON that means the same on every backend; what does not fit is named, in words that can be printed."""
    with stage.untouched(), pytest.raises(InvalidInput, match=problem) as caught:
        stage.settle(stage.chat(metadata=given).send("x"))
    str(caught.value).encode()


KEPT: list[tuple[str, Any]] = [
    ("2**53", {"most": 2**53, "least": -(2**53)}),
    ("floats", {"one": 1.0, "minus nothing": -0.0, "small": 5e-324, "third": 1 / 3}),
    ("order", {"z": 1, "a": 2, "m": {"y": 1, "b": 2}}),
    ("32 deep", nested(32)),
    ("every kind", {"": None, "t": True, "f": False, "l": [], "o": {}, "s": "\u2028\u202e\ufeff\x1b"}),
    (
        "what looks like ours",
        {"lc": 1, "__class__": "os.system", "$ref": "#/x", "type": "constructor", "py/object": "x"},
    ),
    ("any mapping", MappingProxyType({"a": MappingProxyType({"b": (1, 2)})})),
]


def _as_plain(value: Any) -> Any:
    if isinstance(value, dict | MappingProxyType):
        return {key: _as_plain(item) for key, item in value.items()}
    return [_as_plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("given", [pytest.param(case[1], id=case[0]) for case in KEPT])
def test_metadata_comes_back_as_it_was(stage: Stage, given: Any) -> None:
    """Accepted metadata returns with the same keys in the same order, the same numbers of the same types."""
    subject = f"subject of {uuid4()}"
    stage.settle(stage.chat(metadata=given, subject=subject).send("x"))
    (found,) = stage.settle(stage.kit.conversations(subject=subject))
    assert repr(found.metadata) == repr(_as_plain(given))
