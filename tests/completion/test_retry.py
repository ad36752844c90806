"""Whether a failed call is made again, and when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.completion.retry import find_delay_s
from convokit.errors import (
    BadReply,
    ContentFiltered,
    ContextOverflow,
    Interrupted,
    ModelError,
    QuotaExhausted,
    RateLimited,
    Rejected,
    ServerFailed,
    TimedOut,
    Unreachable,
)
from convokit.settings import Retry


def wait(
    error: BaseException, attempt: int = 1, drawn: float = 0.5, remaining_s: float = 1e9, **retry: Any
) -> float | None:
    """The delay, with jitter that always draws the same."""
    return find_delay_s(error, attempt=attempt, retry=Retry(**retry), random=lambda: drawn, remaining_s=remaining_s)


def should(error: ModelError, wish: bool) -> ModelError:
    """The error with the server's wish on it."""
    error.should_retry = wish
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unreachable("x"), True),
        (TimedOut("x", phase="connect"), True),
        (RateLimited("x", status=429), True),
        (ServerFailed("x", status=500), True),
        (ServerFailed("x", status=409), True),
        (TimedOut("x", phase="first_byte"), False),
        (TimedOut("x", phase="stall"), False),
        (TimedOut("x", phase="total"), False),
        (Interrupted("x"), False),
        (Interrupted("x", status=200), False),
        (BadReply("x", status=200), False),
        (Rejected("x", status=400), False),
        (QuotaExhausted("x", status=429, retry_after_s=1), False),
        (ContentFiltered("x", categories={}), False),
        (ContextOverflow(2, 1), False),
        (KeyboardInterrupt(), False),
        (ValueError(), False),
        (ServerFailed("x", status=500, partial="Hel"), False),
        (should(Rejected("x", status=400), True), True),
        (should(ServerFailed("x", status=500), False), False),
        (should(QuotaExhausted("x", status=429), True), False),
    ],
)
def test_b68_what_is_tried_again(error: BaseException, again: bool) -> None:
    """Only what cannot have been answered; a quota never; the server's own wish before ours."""
    assert (wait(error) is not None) is again


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TimedOut("x", phase="first_byte"), True),
        (Interrupted("x"), True),
        (Interrupted("x", status=200), False),
        (Interrupted("x", partial="a"), False),
        (TimedOut("x", phase="stall"), False),
        (BadReply("x"), False),
    ],
)
def test_ambiguous_calls_are_repeated_only_on_request(error: ModelError, again: bool) -> None:
    """What the server may have done, and billed, is repeated only when asked for, and never after its first byte."""
    assert wait(error) is None
    assert (wait(error, ambiguous=True) is not None) is again


def test_b69_backoff_doubles_with_full_jitter_up_to_its_maximum() -> None:
    """The delay is drawn from zero up to a ceiling that doubles."""
    error = ServerFailed("x", status=500)
    assert [wait(error, attempt, 1.0, attempts=99) for attempt in (1, 2, 3, 4, 5, 6, 98)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert wait(error, 3, 0.25, attempts=99) == 0.5
    assert wait(error, 3, 0.0, attempts=99) == 0.0


@pytest.mark.parametrize("status", [503, 529])
def test_an_overloaded_server_is_given_more_time(status: int) -> None:
    """A server that is overloaded, or still loading its model, is asked again later."""
    assert wait(ServerFailed("x", status=status), 1, 1.0) == 2.0


def test_b69_attempts_are_bounded_and_none_follows_the_last() -> None:
    """There is no delay after the last try."""
    error = ServerFailed("x", status=500)
    assert [wait(error, attempt, attempts=3) is None for attempt in (1, 2, 3, 4)] == [False, False, True, True]
    assert wait(error, 1, attempts=1) is None


def test_b69_no_sleep_outlasts_the_deadline() -> None:
    """A delay longer than what is left gives up at once instead of waiting in vain."""
    assert wait(ServerFailed("x", status=500), 3, 1.0, remaining_s=2.0, attempts=9) is None
    assert wait(ServerFailed("x", status=500), 3, 0.9, remaining_s=2.0, attempts=9) == 1.8
    assert wait(RateLimited("x", retry_after_s=5.0), remaining_s=5.0) is None
    assert wait(Unreachable("x"), remaining_s=0.0) is None
    assert wait(Unreachable("x"), remaining_s=-1.0) is None


def test_b68_a_servers_wish_is_followed_up_to_the_callers_patience() -> None:
    """A named delay is kept exactly; one that is too long is not waited for at all."""
    assert wait(RateLimited("x", retry_after_s=7.0), drawn=0.1) == 7.0
    assert wait(RateLimited("x", retry_after_s=60.0)) == 60.0
    assert wait(RateLimited("x", retry_after_s=60.1)) is None
    assert wait(RateLimited("x", retry_after_s=60.1), honour_s=120.0) == 60.1
    assert wait(RateLimited("x", retry_after_s=0.0), drawn=1.0) == 0.5


@given(
    st.integers(1, 2000),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 1e6),
    st.floats(-1e6, 1e6),
    st.sampled_from([None, 429, 500, 503]),
)
def test_b69_every_delay_is_within_its_bounds(
    attempt: int, drawn: float, wish: float | None, remaining_s: float, status: int | None
) -> None:
    """Whatever the numbers, a delay is finite, not negative, below the deadline and below the caller's patience."""
    error = ServerFailed("x", status=status, retry_after_s=wish)
    found = wait(error, attempt, drawn, remaining_s, attempts=3000)
    assert found is None or (0 <= found < remaining_s and found <= 60)
