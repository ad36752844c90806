"""The recordings of `convokit demo` show the current texts."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from convokit.cli.demo.texts import FOLLOW_UP, LANGUAGES, SEARCH

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("lang", "name"), [("en", "demo.svg"), ("ja", "demo.ja.svg")])
def test_a_recording_shows_the_current_demo(lang: str, name: str) -> None:
    """After a change of the texts, `scripts/record_demo.py` records the demo again."""
    file = Path(__file__).resolve().parents[2] / "docs" / "images" / name
    drawing = ElementTree.parse(file).getroot()
    title = drawing.find(f"{_SVG}title")
    assert title is not None
    assert title.text
    assert not list(drawing.iter(f"{_SVG}script"))
    assert file.stat().st_size < 200_000
    shown = "".join(each.text or "" for each in drawing.iter(f"{_SVG}text"))
    texts = LANGUAGES[lang]
    headings = [texts.ask, texts.recover, texts.resume, texts.search, texts.alter, texts.window]
    for text in (*headings, texts.question, texts.reply, texts.killed, texts.altered_text, FOLLOW_UP, SEARCH):
        # A line may be wrapped anywhere.
        assert re.sub(r"\s", "", text) in re.sub(r"\s", "", shown), text
    assert "prefers-reduced-motion" in file.read_text("utf-8")
    assert not re.search(r"/(home|root|tmp|Users|var|work)/", file.read_text("utf-8"))
