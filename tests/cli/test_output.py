"""What is printed for people: safe, and measured in cells."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console

from convokit.cli import output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 日本語 😀", "plain 日本語 😀"),
        ("line\nline\ttab", "line\nline\ttab"),
        ("dos\r\nline", "dos\nline"),
        ("\x1b[31m", "␛[31m"),
        ("\x07\x08\x7f\x00", "␇␈␡␀"),
        ("\x9b31m", "<U+009B>31m"),
        ("user\u202etxt.exe", "user<U+202E>txt.exe"),
        ("\u2066a\u2069\u200f", "<U+2066>a<U+2069><U+200F>"),
        ("\U000e0041", "<U+E0041>"),
        ("\ud800", "<U+D800>"),
        ("👩‍👩‍👧 é", "👩‍👩‍👧 é"),
    ],
)
def test_safe_shows_what_could_steer_a_terminal(text: str, shown: str) -> None:
    """Controls, escapes, direction overrides, invisible tags and lone surrogates become visible; all else stays."""
    assert output.safe(text) == shown


def test_columns_are_cut_by_cells() -> None:
    """Where a table does not fit, `cut` columns lose cells and the others none."""
    listing = output.table("id", "title", "n", right=("n",), cut=("title",))
    listing.add_row("0123456789", output.cell("日本語の長い題名です" * 3), "12,345")
    file = io.StringIO()
    Console(file=file, width=40).print(listing)
    lines = file.getvalue().splitlines()
    assert all(cell_len(line) <= 40 for line in lines)
    assert lines[1].startswith("0123456789  日本語")
    assert "…" in lines[1]
    assert lines[1].rstrip().endswith("12,345")


NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=44), "just now"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(minutes=89), "89 min ago"),
    ],
)
def test_times_are_said_as_a_person_would(before: timedelta, said: str) -> None:
    """The last minutes are counted."""
    assert output.ago(NOW - before, NOW) == said


def test_older_times_are_dates_of_the_readers_clock() -> None:
    """Yesterday, the last days by their name, then dates: in local time."""
    now = datetime.now().astimezone().replace(hour=12)
    assert output.ago(now - timedelta(hours=3), now) == "3 h ago"
    assert output.ago(now - timedelta(days=1), now) == "yesterday 12:" + f"{now:%M}"
    assert output.ago(now - timedelta(days=3), now).endswith(f"12:{now:%M}")
    assert output.ago(now - timedelta(days=30), now) == output.local_time(now - timedelta(days=30))


def test_a_stream_that_cannot_hold_japanese_does_not_fail() -> None:
    """Where the encoding has no such character it is replaced; the rest of the answer is printed."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    output.tolerate(stream)
    stream.write("日本 ok")
    stream.flush()
    assert raw.getvalue() == b"?? ok"
