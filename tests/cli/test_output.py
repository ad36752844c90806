"""Test the safe text, the cells and the times that the command line prints."""

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
def test_make_safe_makes_control_characters_visible(text: str, shown: str) -> None:
    assert output.make_safe(text) == shown


def test_only_cut_columns_lose_cells() -> None:
    listing = output.make_table("id", "title", "n", right=("n",), cut=("title",))
    listing.add_row("0123456789", output.make_cell("日本語の長い題名です" * 3), "12,345")
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
def test_recent_times_are_ages(before: timedelta, said: str) -> None:
    assert output.format_age(NOW - before, NOW) == said


def test_older_times_are_local_dates() -> None:
    now = datetime.now().astimezone().replace(hour=12)
    assert output.format_age(now - timedelta(hours=3), now) == "3 h ago"
    assert output.format_age(now - timedelta(days=1), now) == "yesterday 12:" + f"{now:%M}"
    assert output.format_age(now - timedelta(days=3), now).endswith(f"12:{now:%M}")
    assert output.format_age(now - timedelta(days=30), now) == output.format_time(now - timedelta(days=30))


def test_unencodable_characters_are_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    output.replace_unencodable(stream)
    stream.write("日本 ok")
    stream.flush()
    assert raw.getvalue() == b"?? ok"
