"""English and Japanese: both have every text, and the reader's choice."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from convokit.viewer.language import LANGUAGES, format_cost, load_language
from tests.viewer.in_process import AsgiViewer

TEMPLATES = Path(__file__).parents[2] / "convokit" / "viewer" / "templates"


def test_both_languages_have_the_same_texts() -> None:
    """The same keys and the same values in braces."""
    english, japanese = (load_language(code).texts for code in LANGUAGES)
    assert english.keys() == japanese.keys()
    for key, text in english.items():
        assert set(re.findall(r"\{\w*\}", text)) == set(re.findall(r"\{\w*\}", japanese[key])), key
    assert all(
        re.search(r"[ぁ-んァ-ン一-龥]|UTC|ID|JSON", text)
        for key, text in japanese.items()
        if key not in ("fill_of", "tokens_in_out")
    )


def test_every_text_is_used_and_defined() -> None:
    """A key that a template names exists; a key that nothing names is left over."""
    english = load_language("en").texts
    sources = "".join(path.read_text("utf-8") for path in TEMPLATES.glob("*.html"))
    sources += "".join(path.read_text("utf-8") for path in TEMPLATES.parent.rglob("*.py"))
    named = set(re.findall(r"""(?:\bt|language)\(["'](\w+)["']""", sources))
    assert {key for key in named if not key.endswith("_")} <= english.keys()
    built: tuple[str, ...] = (
        "key_",
        "tab_",
        "by_",
        "filter_",
        "replay_",
        "budget_",
        "call_tab_",
        "role_",
        "status_",
        "state_",
        "call_state_",
    )
    built += (
        "tool_state_",
        "usage_",
        "entry_",
        "diff_",
        "reason_",
        "part_",
        "factor_",
        "error_",
        "link_",
        "sign_in_failed",
    )
    left = {key for key in english if key not in named and f'"{key}"' not in sources and not key.startswith(built)}
    assert left <= {"removed_at", "erased_at"}


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("ja", "ja"),
        ("ja-JP,en;q=0.9", "ja"),
        ("en-US,ja;q=0.9", "en"),
        ("fr,ja;q=0.5", "ja"),
        ("fr", "en"),
        ("", "en"),
        ("ja;q=0", "en"),
        ("ja;q=x", "en"),
    ],
)
def test_the_browsers_language_is_used(sqlite_viewer: AsgiViewer, accepted: str, expected: str) -> None:
    page = sqlite_viewer.get("/", headers={"accept-language": accepted})
    assert f'<html lang="{expected}">' in page.text


def test_the_switch_is_kept_in_a_cookie(sqlite_viewer: AsgiViewer) -> None:
    """The address stays the same, with its parameters."""
    response = sqlite_viewer.get("/?lang=ja&subject=花子&prefix=a%26b")
    assert response.headers["location"] == "/?subject=%E8%8A%B1%E5%AD%90&prefix=a%26b"
    cookie = response.headers["set-cookie"].partition(";")[0]
    assert '<html lang="ja">' in sqlite_viewer.get("/", headers={"cookie": cookie, "accept-language": "en"}).text
    assert sqlite_viewer.get("/?lang=xx").status_code == 200


def test_costs_and_counts() -> None:
    costs = {"0": "$0.00", "0.001234": "$0.001234", "12.5": "$12.50", "1234.567": "$1,234.57"}
    assert {text: format_cost(Decimal(text)) for text in costs} == costs
    texts = load_language("en")
    counts = {1: "1 message", 2: "2 messages", 1000: "1,000 messages"}
    assert {number: str(texts("messages_n", n=number)) for number in counts} == counts
    assert str(texts("by_author", author="<b>")) == "by &lt;b&gt;"
    assert texts.name("role", "robot") == "robot"
