"""Links lead somewhere, and every page can be found."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import CHECKOUT, name, pages, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the checkout names one that is there, and a heading in it if it names one."""
    for link in LINK.findall(prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.is_file(), f"{link}: there is no such file"
        assert not parts.fragment or parts.fragment in _anchors(target), f"{link}: there is no such heading"


def test_links_work_in_the_source_distribution() -> None:
    """A page links to files that the source distribution contains."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    included = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    for page in pages():
        for link in LINK.findall(prose(page)):
            parts = urlsplit(link)
            if not parts.scheme and parts.path:
                target = (page.parent / parts.path).resolve().relative_to(CHECKOUT)
                assert target.parts[0] in included, f"{name(page)}: {link}"


def test_every_page_can_be_reached() -> None:
    """From the README, over links, every page can be reached."""
    reached: set[Path] = set()
    waiting = [CHECKOUT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [
            (page.parent / urlsplit(link).path).resolve()
            for link in LINK.findall(prose(page))
            if not urlsplit(link).scheme and urlsplit(link).path
        ]
    assert {name(page) for page in pages()} - {name(page) for page in reached} == set()
