"""Parse docstrings in Google, NumPy and Sphinx style."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.tools.docstrings import parse_docstring

NAMES = ("city", "unit", "days")

GOOGLE = """Return the weather.

    Of today: and of the days that follow.

    Args:
        city (str, optional): Where, e.g. 東京: a name
            or a place code.

            Never a country.
        unit (dict[str, tuple(int)]): c or f
        days: how many

    Returns:
        city: this is not the parameter.

    Raises:
        ValueError: if unit: is wrong
    """
NUMPY = """Return the weather.

    Of today: and of the days that follow.

    Parameters
    ----------
    city : str, optional
        Where, e.g. 東京: a name
        or a place code.

        Never a country.
    unit : {'c', 'f'}
        c or f
    days
        how many

    Returns
    -------
    city : str
        This is not the parameter.
    """
SPHINX = """Return the weather.

    Of today: and of the days that follow.

    :param str city: Where, e.g. 東京: a name
        or a place code. Never a country.
    :type city: str
    :param unit: c or f
    :param int days: how many
    :returns: the weather
    :raises ValueError: if unit: is wrong

    More.
    """


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_three_styles_give_the_same_result(docstring: str) -> None:
    """The text before the first section is the description. Lines of a parameter are joined."""
    text, notes = parse_docstring(docstring, NAMES)
    assert text == "Return the weather.\n\nOf today: and of the days that follow."
    assert notes == {
        "city": "Where, e.g. 東京: a name or a place code. Never a country.",
        "unit": "c or f",
        "days": "how many",
    }


def test_docstring_without_sections_describes_no_parameter() -> None:
    """Neither does a missing docstring."""
    assert parse_docstring(None, NAMES) == ("", {})
    assert parse_docstring("", NAMES) == ("", {})
    assert parse_docstring("Just this.\n\n  And this.", NAMES) == ("Just this.\n\nAnd this.", {})


def test_only_parameters_of_the_function_start_an_entry() -> None:
    """Text with a colon and unknown names continue the entry before."""
    text, notes = parse_docstring(
        "Do.\n\nArgs:\n    city: Where.\n        Note: no country.\n    color: gone\n    unit: c", NAMES
    )
    assert text == "Do."
    assert notes == {"city": "Where. Note: no country. color: gone", "unit": "c"}


def test_entries_end_before_other_text() -> None:
    """At a line that is not indented (Google), at an empty line (Sphinx)."""
    assert parse_docstring("Do.\n\nArgs:\n    city: Where.\nAnd more.\n    unit: c", NAMES)[1] == {"city": "Where."}
    assert parse_docstring("Do.\n\n:param city: Where.\n\nAnd more.", NAMES) == ("Do.", {"city": "Where."})


def test_numpy_entry_may_have_several_names() -> None:
    """`a, b : int` describes both."""
    assert parse_docstring("Do.\n\nParameters\n----------\ncity, unit : str\n    Both.", NAMES)[1] == {
        "city": "Both.",
        "unit": "Both.",
    }


def test_description_ends_at_any_section() -> None:
    """Examples and notes are not sent to the model."""
    for rest in ("Example:\n    do(1)", "Returns\n-------\nint", ":returns: x", "Raises:\n    X: y", "Note:\n    z"):
        assert parse_docstring(f"Do it.\n\n{rest}", NAMES) == ("Do it.", {})


def test_heading_must_be_alone_on_its_line() -> None:
    assert parse_docstring("Returns: the weather of today.", NAMES)[0] == "Returns: the weather of today."
    assert parse_docstring("Do.\n\n:warning: this is no field", NAMES)[0] == "Do.\n\n:warning: this is no field"


def test_empty_entry_is_ignored() -> None:
    assert parse_docstring("Do.\n\nArgs:\n    city:\n    unit: c", NAMES)[1] == {"unit": "c"}


def test_parameters_are_read_after_other_sections() -> None:
    assert parse_docstring("Do.\n\nExample:\n    do(1)\n\nArgs:\n    city: Where.", NAMES) == (
        "Do.",
        {"city": "Where."},
    )


@given(st.text(st.sampled_from("Args:\n -cityParameters:param "), max_size=200) | st.text())
def test_any_docstring_is_parsed(docstring: str) -> None:
    """Property test."""
    text, notes = parse_docstring(docstring, NAMES)
    assert isinstance(text, str)
    assert set(notes) <= set(NAMES)
