"""Call the observers of a kit."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from convokit.domain.conversation import ConversationRow
from convokit.domain.turn import OpenTurn
from convokit.errors import SettingsError
from convokit.observers import Observer, TurnClosed, TurnEvent
from convokit.store.turn_start import Written
from convokit.wire.headers import validate_headers

log = logging.getLogger("convokit.observers")
Facts = dict[str, Any]
METHODS = tuple(name for name, value in vars(Observer).items() if inspect.isfunction(value))


class Notifier:
    """Calls observers in order. An exception of one is logged once for each method, and dropped."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._logged: set[tuple[int, str]] = set()

    def notify(
        self, method: str, kind: Callable[..., TurnEvent], facts: Facts, content: Callable[[], Facts]
    ) -> dict[str, str]:
        """Call `method` of each observer with an event. Return the headers that they returned.

        `content` returns the fields for observers with `include_content`. It is not called for others.
        """
        headers: dict[str, str] = {}
        interrupt: BaseException | None = None
        for observer in self._observers:
            try:
                event = kind(**facts, **content()) if observer.include_content is True else kind(**facts)
                returned = getattr(observer, method)(event)
                if method == "call_started" and returned is not None:
                    headers |= validate_headers(returned)
            except Exception as error:  # an observer changes no turn
                self._log_once(observer, method, error)
            except BaseException as error:  # raised once every observer knows of the event
                interrupt = error
        if interrupt is not None:
            raise interrupt
        return headers

    def close_turn(
        self, conversation: ConversationRow, branch: int, turn: OpenTurn, state: str, written: Written
    ) -> None:
        """Report that another worker's turn was closed."""
        facts = {
            "tenant": conversation.tenant,
            "conversation_id": conversation.id,
            "branch": branch,
            "turn_id": turn.id,
            "epoch": turn.epoch,
            "state": state,
            "open_s": turn.age_us / 1_000_000,
            "kept_chars": sum(len(row.content or "") for row in written.rows),
        }
        self.notify("turn_closed", TurnClosed, facts, lambda: {"key": conversation.key})

    def _log_once(self, observer: Observer, method: str, error: Exception) -> None:
        if (id(observer), method) in self._logged:
            return
        self._logged.add((id(observer), method))
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        # The message of the exception may contain text of a user.
        name, kind = type(observer).__name__, type(error).__name__
        log.error("observer %s.%s raised %s at %s; it is logged once", name, method, kind, where)


def make_notifier(observers: Iterable[Observer]) -> Notifier | None:
    """Return the notifier of these observers; None without observers. Raises: SettingsError."""
    if isinstance(observers, str | Mapping) or not isinstance(observers, Iterable):
        raise SettingsError("observers", f"must be a list of Observer objects, not {type(observers).__name__}")
    given = tuple(observers)
    for observer in given:
        if not isinstance(observer, Observer):
            hint = "an object, not the class" if inspect.isclass(observer) else type(observer).__name__
            raise SettingsError("observers", f"must contain Observer objects, not {hint}")
        awaited = [name for name in METHODS if inspect.iscoroutinefunction(getattr(observer, name))]
        if awaited:
            problem = f"{type(observer).__name__}.{awaited[0]} is an async function, which nobody would await"
            raise SettingsError("observers", f"{problem}: write a plain one, and start a task in it")
    return Notifier(given) if given else None
