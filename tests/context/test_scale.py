"""Test the scale from the counter's tokens to the server's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from convokit.context.scale import TokenScale, compute_refusal_scale, compute_scale
from convokit.context.strategy import Item
from convokit.domain.message import MessageRow
from tests.context.histories import Words

RULE = 7
IMAGE = '[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]'


class Vocabulary:
    """A counter that has the vocabulary of the model."""

    name = "vocabulary"

    def count(self, text: str) -> int:
        return len(text)


class Estimate(Vocabulary):
    """A counter that guesses."""

    name = "guess"
    is_estimate = True
    first_factor = 1.15


def make_row(seq: int, role: str, **values: Any) -> MessageRow:
    """Return a row of a path without gaps."""
    return MessageRow(
        seq=seq,
        parent_seq=seq - 1 or None,
        run_start_seq=1,
        turn_id=None,
        role=role,
        status="complete",
        tokens=1,
        counter="c",
        path_tokens=seq,
        created_at=seq,
        **values,
    )


def make_path(
    reports: Sequence[tuple[int | None, int | None]], *, start: int = 1, rule: int = RULE, images: Sequence[int] = ()
) -> list[MessageRow]:
    """Return turns of a question and a reply; each reply has the (reported, counted) tokens of its request."""
    rows = []
    for turn, (tokens, counted) in enumerate(reports):
        parts = IMAGE if turn in images else None
        window = {"window_from_seq": start, "window_rule": rule}
        rows.append(make_row(2 * turn + 1, "user", parts=parts, **window))
        rows.append(make_row(2 * turn + 2, "assistant", window_tokens=tokens, window_counted=counted, **window))
    return rows


def scale(reports: Sequence[tuple[int | None, int | None]], **given: Any) -> TokenScale:
    return compute_scale(make_path(reports, **given), RULE, Vocabulary())


def test_before_any_report_the_counter_decides() -> None:
    assert compute_scale([], RULE, Vocabulary()) == TokenScale("exact")
    assert compute_scale([], RULE, Estimate()) == TokenScale("estimate", 1.15, 1.15, 1.15)


def test_the_newest_ratio_is_that_of_everything_sent() -> None:
    found = scale([(110, 100), (240, 200)])
    assert (found.source, found.sent, found.last) == ("reported", 1.2, 3)


def test_new_text_has_the_highest_of_the_last_growths() -> None:
    """The growths are 130, 90 and 120 for 100 counted tokens each."""
    found = scale([(110, 100), (240, 200), (330, 300), (450, 400)])
    assert found.text == pytest.approx(1.3 * 1.05)


def test_only_six_growths_count() -> None:
    counted = range(100, 1100, 100)
    reported = [100, 300, *range(400, 1200, 100)]  # the first growth is 2
    assert scale(list(zip(reported, counted, strict=True))).text == pytest.approx(1.05)


def test_without_growth_new_text_has_the_ratio_of_the_rest_or_one() -> None:
    assert scale([(80, 100)]).text == pytest.approx(1.05)
    assert scale([(150, 100)]).text == pytest.approx(1.5 * 1.05)


def test_a_move_of_the_start_is_no_growth() -> None:
    path = make_path([(100, 100), (190, 200)])
    path[3].window_from_seq = 3
    assert compute_scale(path, RULE, Vocabulary()).text == pytest.approx(1.05)


def test_images_have_a_factor_of_their_own() -> None:
    found = scale([(100, 100), (200, 200), (240, 300)], images=[2])
    assert found.text == pytest.approx(1.05)
    assert found.media == pytest.approx(0.4 * 1.05)


@pytest.mark.parametrize("report", [(10, 100), (301, 100), (0, 100), (None, 100), (100, None), (100, 0)])
def test_absurd_and_missing_reports_change_nothing(report: tuple[int | None, int | None]) -> None:
    assert scale([report]).source == "exact"
    assert scale([(120, 100), report]).sent == 1.2


def test_one_bad_report_changes_nothing() -> None:
    """A ratio that is far from those of the last five replies is left out."""
    good = [(110, 100), (220, 200), (330, 300)]
    assert scale([*good, (1200, 400)]) == scale(good)


def test_another_rule_is_not_looked_at() -> None:
    assert compute_scale(make_path([(150, 100)], rule=8), RULE, Vocabulary()).source == "exact"


def test_only_the_last_twelve_replies_are_looked_at() -> None:
    found = scale([(200, 100), *[(None, None)] * 11])
    assert found.source == "reported"
    assert scale([(200, 100), *[(120, 100)] * 12]).sent == 1.2


def test_a_counter_may_be_taken_as_it_is() -> None:
    assert compute_scale(make_path([(150, 100)]), RULE, Words()) == TokenScale("exact")
    assert compute_refusal_scale(150, 100, Words()) is None


@pytest.mark.parametrize(("needed", "factor"), [(150, 1.5), (None, None), (29, None), (301, None)])
def test_a_refusal_with_a_number_is_a_ratio(needed: int | None, factor: float | None) -> None:
    found = compute_refusal_scale(needed, 100, Estimate())
    assert (found and found.sent) == factor


def test_items_are_scaled_by_their_place_and_kind() -> None:
    """Sent items, a new text, a new image, and a new text that takes more than 8 % of the room."""
    factors = TokenScale("reported", sent=0.5, text=0.8, media=2.0, large=1.25, last=2)
    image = {"role": "user", "content": [{"type": "image_url"}]}
    items = [
        Item(key, {"role": "user", "content": "x"}, tokens, 100)
        for key, tokens in ((1, 10), (2, 10), (3, 10), (5, 100))
    ]
    items.insert(3, Item(4, image, 10, 100))
    scaled = factors.scale_items(items, room=1000)
    assert [item.tokens for item in scaled] == [5, 5, 8, 20, 125]
    assert {item.tokens_before for item in scaled} == {50}
    assert [item.tokens for item in items] == [10, 10, 10, 10, 100], "the input does not change"


def test_the_sum_is_rounded_and_not_each_item() -> None:
    """So the window that a reply reported costs exactly what the server said."""
    items = [Item(key, {"role": "user", "content": "x"}, 1, 0) for key in range(1000)]
    scaled = TokenScale("reported", sent=1.234, last=1000).scale_items(items, room=10_000)
    assert sum(item.tokens for item in scaled) == 1234
