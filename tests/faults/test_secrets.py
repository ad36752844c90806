"""I8: a key, a header, a password and people's words are looked for in every place where they must not be.

Canaries go in wherever a secret can, and every sink is searched for them: logs of every library at DEBUG, errors with their
causes and the locals of every frame below the test's own, the tables and the bytes of the file, reprs, the command line.
"""

from __future__ import annotations

import functools
import itertools
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from convokit import Retry, Stream, Timeouts
from convokit.cli.app import app
from convokit.errors import ConvokitError
from convokit.runtime.aio import AsyncStream
from convokit.runtime.config import ApiKey
from convokit.settings import Environment
from tests.cli.conftest import CommandLine
from tests.faults.shared_kit import EACH_ONCE, Stage, staged
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import Script, chunk, completion, event, failure, stream

stage = staged(EACH_ONCE)
KEY = "canary-key-5c1f0a77e2"
HEADER = "canary-header-91b2"
PASSWORD = "canary-password-7d03"
PLANTED = "canary-planted-0e44"
_numbers = itertools.count(1)
QUESTION = "canary question of a person"
ANSWER = "canary answer of a model"
SSE = {"content-type": "text/event-stream"}


def served(name: str, key: str) -> Script:
    """Return the answer of a server that was sent this key."""
    echo = {"message": f"key {key}", "code": key, "type": key, "param": key}
    html = {"content-type": "text/html"}
    scripts = {
        "answered": lambda: completion(ANSWER),
        "streamed": lambda: stream([ANSWER]),
        "cut": lambda: Script([chunk({"content": ANSWER}), None], headers=SSE),
        "closed": lambda: Script([None], headers=SSE),
        "silent": lambda: Script([], delay_s=0.5),
        "stalled": lambda: Script([chunk({"content": ANSWER}), 1.0], headers=SSE),
        "422 with the question": lambda: failure(
            422, "no", detail=[{"loc": ["body"], "msg": "bad", "input": QUESTION}]
        ),
        "401 echo": lambda: failure(401, f"Incorrect API key provided: {key}", code=key, type=key, param=key),
        "401 header": lambda: failure(401, headers={"www-authenticate": f"Bearer {key}"}),
        "401 plain echo": lambda: Script([f"bad key {key}".encode()], status=401, headers={}),
        "403 quoted echo": lambda: failure(403, f'{{"headers": {{"authorization": "Bearer {key}"}}}}'),
        "500 echo": lambda: failure(500, f"Authorization: Bearer {key}; x-token: there"),
        "429 echo": lambda: failure(429, key, headers={"retry-after": "9999"}),
        "redirect header": lambda: failure(307, headers={"location": f"http://{key}.example/v1?key={key}"}),
        "html echo": lambda: Script([f"<html>{key}</html>".encode()], headers=html),
        "json echo": lambda: Script([f'{{"authorization": "{key}"}}'.encode()]),
        "broken echo": lambda: Script([f'data: {{"authorization": "{key}"\n\n'.encode()], headers=SSE),
        "stream error echo": lambda: Script([chunk({"content": ANSWER}), event({"error": echo})], headers=SSE),
    }
    return scripts[name]()


QUIET = ["answered", "streamed", "cut", "closed", "silent", "stalled", "422 with the question"]
"""Servers that do not send the key back: then it is in no frame either."""
ECHOING = ["401 echo", "401 plain echo", "403 quoted echo", "500 echo", "429 echo", "redirect header"]
ECHOING += ["html echo", "broken echo"]
REPEATING = ("401 header", "json echo", "stream error echo")
"""Where a server sends the key back in what is not its sentence."""


def frames(error: BaseException, *, deep: bool = True) -> Iterator[str]:
    """Yield what an error reporter that captures locals would show of an error, its causes and contexts; not our own frames."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        yield f"{each!r} {each} {each.args!r} {vars(each)!r}"
        if not deep:
            continue
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if f"{Path('tests')}/" not in frame.f_code.co_filename:
                yield from (f"{frame.f_code.co_qualname} {name} = {_shown(value)}" for name, value in _locals(frame))


def _locals(frame: Any) -> list[tuple[str, Any]]:
    return list(frame.f_locals.items())


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"({type(error).__name__})"


def searched(sinks: dict[str, str], *canaries: str) -> None:
    """Hold that no canary is in any sink."""
    for name, text in sinks.items():
        for canary in canaries:
            at = text.find(canary)
            assert at < 0, f"{canary} is in {name}: …{text[max(at - 120, 0) : at + 40]}…"


def _stored(stage: Stage) -> str:
    """Return all rows, and every byte of a SQLite file and its log."""
    text = repr(stage.dump())
    url = make_url(stage.database)
    if url.get_backend_name() == "sqlite":
        for path in Path(str(url.database)).parent.glob(f"{Path(str(url.database)).name}*"):
            text += path.read_bytes().decode("latin-1")
    return text


def _attempt(stage: Stage, call: Callable[[], Any], *, deep: bool = True) -> tuple[str, str]:
    """Return what a caller sees of a call: its events, or the error with all that hangs on it."""
    try:
        value = call()
        if isinstance(value, Stream | AsyncStream):
            return repr(stage.face.collect(value)), ""
        stage.settle(value)
    except ConvokitError as error:
        return "", "\n".join(frames(error, deep=deep))
    return "", ""


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Record every logger at DEBUG, those of the libraries below too."""
    names = ["", "convokit", "httpx", "httpcore", "sqlalchemy", "asyncio", "psycopg", "psycopg.pool"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        caplog.set_level(logging.DEBUG, name)
    yield caplog
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


_ANSWER_HEADERS = "receive_response_headers.complete"
"""httpcore logs the headers of an answer at DEBUG, as any server may have written them: not ours to clean."""


def _logged(logs: pytest.LogCaptureFixture, *, ours: bool = False, but: str = "\x00") -> str:
    """Return what was logged, arguments too."""
    records = [record for record in logs.records if not ours or record.name.startswith("convokit")]
    records = [record for record in records if not record.getMessage().startswith(but)]
    return "\n".join(f"{record.name} {record.getMessage()} {record.args!r} {record.exc_text}" for record in records)


@pytest.mark.once
@pytest.mark.parametrize("form", ["text", "function"])
@pytest.mark.parametrize(
    "name", keep([*QUIET, *ECHOING, *REPEATING], "answered", "streamed", "401 echo", "401 header", sample=True)
)
def test_the_key_is_nowhere(
    stage: Stage, logs: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], name: str, form: str
) -> None:
    """However a call goes, neither key nor headers reach a log, a row, a file, an error, a frame, a repr or a terminal."""
    key = f"{KEY}-{next(_numbers)}-end"
    given: ApiKey = key if form == "text" else lambda: key
    kit = stage.face.kit(stage.database, model="m", base_url=stage.server.url, api_key=given)
    chat = kit.chat(stage.chat().key, extra_headers={"x-token": HEADER})
    options = {"retry": Retry(attempts=1), "timeouts": Timeouts(first_byte_s=0.2, stall_s=0.1, total_s=0.4)}
    told = []
    for way in (chat.send, chat.stream):
        stage.server.script(served(name, key))
        told.append(_attempt(stage, functools.partial(way, QUESTION, **options), deep=name in QUIET))
        assert stage.server.requests[-1].headers["authorization"] == f"Bearer {key}"
        assert stage.server.requests[-1].headers["x-token"] == HEADER
    errors = "\n".join(error for _, error in told)
    out, err = capfd.readouterr()
    sinks = {
        "logs": _logged(logs, but=_ANSWER_HEADERS),
        "events": "\n".join(events for events, _ in told),
        "errors": errors,
        "reprs": f"{kit!r} {kit} {chat!r} {vars(chat)!r} {vars(kit)!r}",
        "terminal": out + err,
        "database": _stored(stage),
    }
    searched(sinks, key)
    del sinks["errors"], sinks["reprs"]  # a header that a caller passes stands in the frames it is passed through
    searched({**sinks, "reprs": f"{kit!r} {chat!r}"}, HEADER)
    searched({"our own logs": _logged(logs, ours=True), "terminal": out + err}, QUESTION, ANSWER)


def test_the_search_finds_what_is_there(stage: Stage, logs: pytest.LogCaptureFixture) -> None:
    """The search can fail: a key in an argument of a log line, in a row, or in a frame below is found."""
    stage.server.script(completion(PLANTED))
    stage.settle(stage.chat().send("x"))
    with pytest.raises(AssertionError, match="is in database"):
        searched({"database": _stored(stage)}, PLANTED)
    logging.getLogger("httpcore").debug("sent %s", PLANTED)
    with pytest.raises(AssertionError, match="is in logs"):
        searched({"logs": _logged(logs)}, PLANTED)
    try:
        int(PLANTED)
    except ValueError as error:
        with pytest.raises(AssertionError, match="is in errors"):
            searched({"errors": "\n".join(frames(error))}, PLANTED)


def test_words_are_in_no_error_and_no_log_of_ours(stage: Stage, logs: pytest.LogCaptureFixture) -> None:
    """A failed write tells ids and sizes: the question is in no log line of ours and in no error."""
    chat = stage.chat()
    name = "convokit_message"
    with stage.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {name}_gone")
    try:
        for call in (lambda: chat.send(QUESTION), lambda: chat.stream(QUESTION)):
            _, error = _attempt(stage, call)
            assert "StoreUnavailable" in error
            searched({"errors": error.split("\n")[0], "logs": _logged(logs, ours=True)}, QUESTION)
    finally:
        with stage.engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {name}_gone RENAME TO {name}")


def test_a_password_is_shown_nowhere(face: Face, logs: pytest.LogCaptureFixture) -> None:
    """The password of a database that cannot be reached is in no error, cause, log or repr."""
    url = f"postgresql://someone:{PASSWORD}@127.0.0.1:9/chats?application_name=x"
    kit = face.kit(url, model="m", api_key=KEY)
    calls: list[Callable[[], Any]] = [lambda: kit.chat("k").send(QUESTION), kit.conversations, kit.migrate]
    for call in calls:
        with pytest.raises(ConvokitError) as caught:
            face.settle(call())
        error = caught.value
        searched({"errors": f"{error!r} {error} {vars(error)!r} {error.__cause__!r}"}, PASSWORD, KEY, QUESTION)
    searched({"logs": _logged(logs), "reprs": f"{kit!r} {kit._state!r}"}, PASSWORD, KEY, QUESTION)


@pytest.mark.parametrize(
    "database", [f"postgresql://u:{PASSWORD}@h:no/d", f"mysql://u:{PASSWORD}@h/d", f"x:{PASSWORD}"]
)
def test_a_password_in_a_url_that_cannot_work(face: Face, database: str) -> None:
    """A database URL that is refused is not repeated."""
    with pytest.raises(ConvokitError) as caught:
        face.settle(face.kit(database, model="m").chat("k").send("x"))
    searched({"errors": repr(caught.value) + repr(vars(caught.value))}, PASSWORD)


def test_settings_of_the_environment_show_no_secret() -> None:
    """What is read from the environment can be shown: neither key nor database URL is in its repr."""
    read = Environment.read({"OPENAI_API_KEY": KEY, "CONVOKIT_DATABASE_URL": f"postgresql://u:{PASSWORD}@h/d"})
    assert read.api_key == KEY
    searched({"repr": f"{read!r} {read}"}, KEY, PASSWORD)


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_the_command_line_shows_no_secret(stage: Stage, logs: pytest.LogCaptureFixture) -> None:
    """No command prints the key or the database's password, as text or as JSON, when it works and when it fails."""
    shown = ""
    broken = f"postgresql://someone:{PASSWORD}@127.0.0.1:9/chats"
    for database, code in ((stage.database, None), (broken, 1)):
        cli = CommandLine(database, stage.server.url)
        for command in (["ls"], ["show", "k"], ["context", "k"], ["verify", "k"], ["doctor"], ["db", "current"]):
            for more in ([], ["--json"]):
                result = _run(cli, *command, *more)
                assert code is None or result.exit_code != 0
                shown += f"{result.output} {result.exception!r}"
    stage.server.script(failure(401, f"bad key {KEY}"))
    shown += _run(CommandLine(stage.database, stage.server.url), "chat", "--model", "m", "k", "hello").output
    searched({"command line": shown, "logs": _logged(logs)}, KEY, PASSWORD)


def _run(cli: CommandLine, *arguments: str) -> Any:
    variables = {"CONVOKIT_DATABASE_URL": cli.database, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": cli.base_url}
    return CliRunner().invoke(app, arguments, env=variables)
