"""The Japanese pages follow the English ones."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests.docs.pages import CHECKOUT, blocks, prose

TRANSLATIONS = {"README.ja.md": "README.md", "docs/tutorial.ja.md": "docs/tutorial.md"}
_REVISION = re.compile(r"<!-- based on (\S+): (\w+) -->")


def compute_revision(page: Path) -> str:
    """Return the revision of a page: a digest of its text."""
    return hashlib.sha256(page.read_bytes()).hexdigest()[:12]


@pytest.mark.parametrize(("japanese", "english"), TRANSLATIONS.items())
def test_a_translation_is_of_the_present_page(japanese: str, english: str) -> None:
    """Whoever changes the English page reads the Japanese one, mends it, and writes the new revision into it."""
    found = _REVISION.search((CHECKOUT / japanese).read_text("utf-8"))
    assert found, f"{japanese} does not say which page it is based on"
    revision = compute_revision(CHECKOUT / english)
    assert found.groups() == (english, revision), (
        f"{english} has changed: bring {japanese} up to date, then write revision {revision} into it"
    )


@pytest.mark.parametrize(("japanese", "english"), TRANSLATIONS.items())
def test_a_translation_has_the_same_blocks(japanese: str, english: str) -> None:
    """Both pages show the same number of programs, commands and outputs, under headings of the same levels."""
    for language in ("python", "sh", "output"):
        shown = [len(blocks(CHECKOUT / page, language)) for page in (japanese, english)]
        assert shown[0] == shown[1], language
    levels = [re.findall(r"^(#+) ", prose(CHECKOUT / page), flags=re.MULTILINE) for page in (japanese, english)]
    assert levels[0] == levels[1]


def test_every_japanese_page_is_named_here() -> None:
    """A new translation enters the table above."""
    pages = {path.relative_to(CHECKOUT).as_posix() for path in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")]}
    assert {page for page in pages if page.endswith(".ja.md")} == set(TRANSLATIONS)
