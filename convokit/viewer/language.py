"""Choose the language of a page, and write its texts and numbers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

from markupsafe import Markup
from starlette.requests import Request

DEFAULT_LANGUAGE = "en"
LANGUAGES = ("en", "ja")
LANGUAGE_COOKIE = "convokit_language"


@dataclass(frozen=True, slots=True)
class Language:
    """The texts of one language. A text with `|` has a form for one and a form for other numbers `n`."""

    code: str
    texts: Mapping[str, str]

    def __call__(self, key: str, **values: Any) -> Markup:
        """Return a text with its values. Values are escaped, and numbers get thousands separators."""
        text = self.texts[key]
        if "|" in text:
            one, other = text.split("|")
            text = one if values.get("n") == 1 else other
        # The texts are part of the package. The values are not.
        return Markup(text).format(**{name: _format_value(value) for name, value in values.items()})  # noqa: S704

    def name(self, group: str, code: str) -> str:
        """Return the text for a code that is stored, such as a role or a state; the code itself if it is unknown."""
        return self.texts.get(f"{group}_{code}", code)


def _format_value(value: Any) -> Any:
    return format_number(value) if isinstance(value, int) and not isinstance(value, bool) else value


def format_number(value: float) -> str:
    """Return a number with thousands separators. English and Japanese write them alike."""
    return f"{value:,}"


def format_cost(cost: Decimal) -> str:
    """Return US dollars: with six digits below a cent, else with two."""
    return f"${cost:,.6f}" if 0 < cost < Decimal("0.01") else f"${cost:,.2f}"


@cache
def load_language(code: str) -> Language:
    """Return a language by its code. Raises: FileNotFoundError for one that is not in `LANGUAGES`."""
    file = resources.files("convokit.viewer") / "languages" / f"{code}.toml"
    return Language(code, tomllib.loads(file.read_text("utf-8")))


def choose_language(request: Request) -> Language:
    """Return the language of the cookie that the switch of the pages sets, else the one that the browser prefers."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen in LANGUAGES:
        return load_language(chosen)
    return load_language(_choose_accepted(request.headers.get("accept-language", "")))


def _choose_accepted(header: str) -> str:
    """Return the language of an Accept-Language header with the highest weight that there is."""
    best, chosen = 0.0, DEFAULT_LANGUAGE
    for each in header.split(","):
        name, _, parameters = each.partition(";")
        code = name.strip().lower().partition("-")[0]
        weight = _parse_weight(parameters)
        if code in LANGUAGES and weight > best:
            best, chosen = weight, code
    return chosen


def _parse_weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
