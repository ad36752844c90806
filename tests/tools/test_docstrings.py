"""What a docstring says to a model, in each of the three styles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.tools.docstrings import read

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
def test_the_three_styles_say_the_same(docstring: str) -> None:
    """The text before the first section is the description; each parameter has its own words, over lines, joined."""
    text, notes = read(docstring, NAMES)
    assert text == "Return the weather.\n\nOf today: and of the days that follow."
    assert notes == {
        "city": "Where, e.g. 東京: a name or a place code. Never a country.",
        "unit": "c or f",
        "days": "how many",
    }


def test_nothing_said_is_nothing_told() -> None:
    """No docstring, or one without sections, is no description of parameters."""
    assert read(None, NAMES) == ("", {})
    assert read("", NAMES) == ("", {})
    assert read("Just this.\n\n  And this.", NAMES) == ("Just this.\n\nAnd this.", {})


def test_only_names_of_the_function_begin_an_entry() -> None:
    """Prose with a colon, and what is said of parameters that are not there, stay where they are."""
    text, notes = read("Do.\n\nArgs:\n    city: Where.\n        Note: no country.\n    color: gone\n    unit: c", NAMES)
    assert text == "Do."
    assert notes == {"city": "Where. Note: no country. color: gone", "unit": "c"}


def test_text_after_the_entries_belongs_to_nobody() -> None:
    """A line that is not indented ends Google's entries, an empty line ends a field of Sphinx."""
    assert read("Do.\n\nArgs:\n    city: Where.\nAnd more.\n    unit: c", NAMES)[1] == {"city": "Where."}
    assert read("Do.\n\n:param city: Where.\n\nAnd more.", NAMES) == ("Do.", {"city": "Where."})


def test_several_names_may_share_an_entry() -> None:
    """NumPy style: `a, b : int` says the same of both."""
    assert read("Do.\n\nParameters\n----------\ncity, unit : str\n    Both.", NAMES)[1] == {
        "city": "Both.",
        "unit": "Both.",
    }


def test_sections_that_are_not_parameters_end_the_description() -> None:
    """Examples and notes are for people: the model is not told."""
    for rest in ("Example:\n    do(1)", "Returns\n-------\nint", ":returns: x", "Raises:\n    X: y", "Note:\n    z"):
        assert read(f"Do it.\n\n{rest}", NAMES) == ("Do it.", {})


def test_a_word_with_a_colon_in_the_text_is_no_section() -> None:
    """A heading stands alone on its line."""
    assert read("Returns: the weather of today.", NAMES)[0] == "Returns: the weather of today."
    assert read("Do.\n\n:warning: this is no field", NAMES)[0] == "Do.\n\n:warning: this is no field"


def test_an_empty_entry_is_none() -> None:
    """`city:` with nothing behind it tells nothing."""
    assert read("Do.\n\nArgs:\n    city:\n    unit: c", NAMES)[1] == {"unit": "c"}


def test_parameters_after_other_sections_are_read() -> None:
    """The order of the sections does not matter."""
    assert read("Do.\n\nExample:\n    do(1)\n\nArgs:\n    city: Where.", NAMES) == ("Do.", {"city": "Where."})


@given(st.text(st.sampled_from("Args:\n -cityParameters:param "), max_size=200) | st.text())
def test_any_docstring_can_be_read(docstring: str) -> None:
    """Whatever people write, reading it gives text."""
    text, notes = read(docstring, NAMES)
    assert isinstance(text, str)
    assert set(notes) <= set(NAMES)
