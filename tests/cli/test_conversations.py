"""`ls`, `show`, `context`, `verify`: what is stored, as it is, for people and for programs."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

from rich.cells import cell_len
from sqlalchemy.engine import make_url

from convokit import Budget, Convokit, Summary
from convokit.settings import SUMMARY_PROMPT
from tests.cli.conftest import CommandLine
from tests.support.server import LoopbackServer, completion, echo, failure, stream

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
NARROW = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "60", "TERM": "xterm"}
WIDE = {**NARROW, "COLUMNS": "160"}


def _kit(cli: CommandLine, **settings: Any) -> Convokit:
    return Convokit(cli.database, model="loop-1", base_url=cli.base_url, **settings)


def test_ls_lists_the_last_used_first(cli: CommandLine) -> None:
    """Key or id, how many messages, when; a page says how to get the next."""
    for key in ("one", "two", "three"):
        cli.chat("--key", key, "hi")
    cli.chat("--key", "one", "again")
    lines = cli("ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["conversation", "one", "three", "two"]
    assert lines[1].split()[1:] == ["4", "just", "now"]
    page = cli.json("ls", "--limit", "2")
    assert [found["key"] for found in page["conversations"]] == ["one", "three"]
    rest = cli.json("ls", "--before", page["next"])
    assert [found["key"] for found in rest["conversations"]] == ["two"]
    assert rest["next"] is None
    assert f"--before {page['next']}" in cli("ls", "--limit", "2").stderr


def test_ls_keeps_to_a_subject(cli: CommandLine) -> None:
    """`--subject` shows one person's conversations."""
    with _kit(cli) as kit:
        kit.chat("a", subject="hanako", title="東京への旅").send("hi")
        kit.chat("b", subject="taro").send("hi")
    assert [found["key"] for found in cli.json("ls", "--subject", "hanako")["conversations"]] == ["a"]
    lines = cli("ls").stdout.splitlines()
    assert lines[0].split() == ["conversation", "messages", "last", "used", "title", "subject"]
    assert lines[2].split()[-2:] == ["東京への旅", "hanako"]
    assert "no conversations of nobody yet" in cli("ls", "--subject", "nobody").stderr


def test_a_narrow_terminal_cuts_titles_by_cells_and_keys_never(cli: CommandLine) -> None:
    """A Japanese character is two cells: no line is wider than the terminal, and the id can be copied whole."""
    with _kit(cli) as kit:
        chat = kit.chat(title="とても長い日本語の題名がここにあります" * 4)
        chat.send("hi")
    shown = _STYLE.sub("", cli("ls", env=NARROW).stdout)
    assert max(map(cell_len, shown.splitlines())) <= 60
    assert str(chat.id) in shown
    assert "  とても長い日本語の題名" in shown
    assert "…" in shown


def test_show_prints_the_words(cli: CommandLine) -> None:
    """Roles, times and words, oldest first; lines and tabs as they are, in a pipe without wrapping."""
    cli.chat("--key", "k", "long " * 50 + "\n\tend")
    lines = cli("show", "k").stdout.splitlines()
    assert lines[0].startswith("user  20")
    assert lines[1:3] == [("long " * 50), "\tend"]
    assert lines[4].startswith("assistant  20")


def test_show_finds_ids_keys_and_the_last(cli: CommandLine) -> None:
    """An id is tried first, then a key, even one that looks like an id; without either it is the last used."""
    odd = "0af7651916cd43dd8448eb211c80319c"
    cli.chat("--key", odd, "by odd key")
    cli.chat("--key", "k", "by key")
    found = cli.json("show")
    assert found["key"] is None
    assert [message["text"] for message in found["messages"]] == ["by key", "echo: by key"]
    assert cli.json("show", found["conversation_id"]) == found
    assert cli.json("show", "k")["messages"] == found["messages"]
    assert cli.json("show", odd)["messages"][0]["text"] == "by odd key"


def test_show_keeps_to_the_newest(cli: CommandLine) -> None:
    """`--last N` shows N messages and says that there are more."""
    for number in range(3):
        cli.chat("--key", "k", f"q{number}")
    result = cli("show", "k", "--last", "3")
    assert "q0" not in result.stdout
    assert result.stdout.count("user  20") == 1
    assert "earlier messages are not shown" in result.stderr
    assert cli("show", "k", "--last", "6").stderr == ""


def test_stored_text_cannot_steer_the_terminal(cli: CommandLine) -> None:
    """Escapes, carriage returns and direction overrides are shown; `--json` is exact, and safe to print as well."""
    evil = "a\x1b]0;owned\x07b\rc\u202ed\x9b2Je"
    cli.chat("--key", "k", evil)
    shown = cli("show", "k").stdout
    assert "a␛]0;owned␇b␍c<U+202E>d<U+009B>2Je" in shown
    printed = cli("show", "k", "--json").stdout
    assert not any(character in printed for character in "\x1b\x07\r\u202e\x9b")
    assert cli.json("show", "k")["messages"][0]["text"] == evil


def test_markup_and_emoji_codes_are_only_text(cli: CommandLine) -> None:
    """What looks like the terminal library's own markup is printed as it is."""
    cli.chat("--key", "[bold]k[/bold]", "[red]hot[/red] :smile: [link=file:///etc]x[/link]")
    assert "[red]hot[/red] :smile: [link=file:///etc]x[/link]" in cli("show", env=NARROW).stdout
    assert "[bold]k[/bold]" in cli("ls", env=NARROW).stdout


def test_partial_replies_are_marked(cli: CommandLine, server: LoopbackServer) -> None:
    """A reply that broke off says so."""
    with _kit(cli) as kit, kit.chat("k").stream("one two three") as events:
        while not next(iter(events)).text:
            pass
    assert "(partial)" in cli("show", "k").stdout


def test_context_shows_the_window(cli: CommandLine) -> None:
    """Every part with its tokens, what is in, what is out and why, and where the window begins."""
    budget = Budget(context_tokens=300, reply_tokens=50, step_tokens=60)
    with _kit(cli, budget=budget) as kit:
        for number in range(8):
            kit.chat("k").send(f"question {number} " + "word " * 8)
    cli.chat("--key", "k", "-p", "Be brief.", "last")
    found = cli.json("context", "k")
    assert set(found) == {"messages", "report"}
    assert found["messages"][0] == {"role": "developer", "content": "Be brief."}
    assert found["messages"][-1]["content"] == "echo: last"
    shown = cli("context", "k").stdout
    assert "Be brief." in shown
    assert "counted by estimate" in shown
    assert "window: " in shown


def test_context_shows_what_stays_out(cli: CommandLine) -> None:
    """When not everything fits, the parts left out are shown with the rule."""
    for number in range(12):
        cli.chat("--key", "k", f"question {number} " + "日本語の長い文章です。" * 200)
    found = cli.json("context", "k", "--text", "次は?")
    assert found["messages"][-1] == {"role": "user", "content": "次は?"}
    assert found["report"]["start"] > 1
    shown = _STYLE.sub("", cli("context", "k", "--text", "次は?", env=NARROW).stdout)
    assert "tokens before it stay out" in " ".join(shown.split())
    assert max(map(cell_len, shown.splitlines())) <= 60


def test_context_shows_the_summary(cli: CommandLine, server: LoopbackServer) -> None:
    """With --summary the stored summary is shown in its place, and whether the next question would make another."""
    server.answer = lambda body: (
        completion("約束の要約") if body["messages"][0]["content"] == SUMMARY_PROMPT else echo(body)
    )
    looking = ("context", "k", "--model", "loop-1")
    long = "日本語の長い文章です。" * 100
    with _kit(cli, summary=Summary(), budget=Budget(step_tokens=2048)) as kit:
        for number in range(20):
            kit.chat("k").send(f"question {number} {long}")
    parts = [part for part in cli.json(*looking, "--summary")["report"]["parts"] if part["included"]]
    assert (parts[0]["kind"], parts[0]["excerpt"]) == ("summary", "約束の要約")
    assert "約束の要約" in cli(*looking, "--summary").stdout
    assert "約束の要約" not in cli(*looking).stdout
    shown = cli(*looking, "--summary", "--text", long * 2, env=WIDE).stdout
    assert "would be made first" in " ".join(_STYLE.sub("", shown).split())


def test_context_shows_when_the_cut_moves_and_what_is_cached(cli: CommandLine, server: LoopbackServer) -> None:
    """The model, how far the window's start is from moving, the prompt's stable beginning, and what the last call took."""
    cli.chat("--key", "k", "-p", "Be brief.", "first")
    assert "cache: nothing expected" in cli("context", "k", "--model", "another").stdout
    reported = {"prompt_tokens": 1500, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1234}}
    server.script(completion("二番目", usage={**reported, "total_tokens": 1503}))
    cli.chat("--key", "k", "--no-stream", "second")
    report = cli.json("context", "k", "--text", "third")["report"]
    assert report["model"] == "loop-1"
    assert report["last_call"]["cached_tokens"] == 1234
    assert 0 < report["last_call"]["expected_tokens"] < report["stable_tokens"] < report["tokens"]
    shown = cli("context", "k", "--text", "third").stdout
    assert "tokens of loop-1: " in shown
    assert f"; its start moves after {report['moves_in_tokens']:,} more tokens of messages" in shown
    assert f"cache: the first {report['stable_tokens']:,} of {report['tokens']:,} prompt tokens" in shown
    expected = report["last_call"]["expected_tokens"]
    assert f"last call: 1,234 of 1,500 prompt tokens from cache (expected {expected:,})" in shown
    narrow = _STYLE.sub("", cli("context", "k", "--text", "third", env=NARROW).stdout)
    assert max(map(cell_len, narrow.splitlines())) <= 60


def test_chat_says_what_a_reply_took(cli: CommandLine, server: LoopbackServer) -> None:
    """`--usage` puts the server's counts beside what was expected, also where it said nothing of its cache, or nothing."""
    assert "usage: " not in cli.chat("--key", "k", "first").stderr
    expected = cli.json("context", "k", "--text", "second")["report"]["stable_tokens"]
    result = cli.chat("--key", "k", "--usage", "second")
    said = f"9 prompt tokens; the server did not say how many from cache (expected {expected:,}); 3 tokens of reply"
    assert f"usage: {said}" in result.stderr
    assert "usage" not in result.stdout
    server.script(stream(["no ", "usage"], done=False))
    result = cli.chat("--key", "k", "--usage", "third")
    assert "usage: the server did not say what its prompt took (expected from cache: " in result.stderr
    assert "last call: the server did not say what its prompt took" in cli("context", "k").stdout


def test_what_a_model_does_not_take_as_input_is_not_free(cli: CommandLine) -> None:
    """Where a model's input limit is less than its window, the rest is no room for messages."""
    cli.chat("--key", "k", "hi")
    report = cli.json("context", "k", "--model", "gpt-6-luna")["report"]
    shown = cli("context", "k", "--model", "gpt-6-luna").stdout
    assert f". {report['moves_in_tokens']:,} free, - " in shown
    assert " over the model's input limit" in shown
    assert "input limit" not in cli("context", "k").stdout


def test_context_needs_no_server_but_a_model(cli: CommandLine, server: LoopbackServer) -> None:
    """Nothing is called. A conversation that stored no model needs one named."""
    with _kit(cli) as kit:
        kit.chat("k").send("hi")
    calls = len(server.requests)
    assert "no model was named" in cli.mistake("context", "k")
    assert cli.json("context", "k", "--model", "gpt-6-luna")["report"]["context_tokens"] > 100_000
    assert len(server.requests) == calls


def test_looking_stores_nothing(cli: CommandLine) -> None:
    """`context --model` tries another model without storing it."""
    cli.chat("--key", "k", "hi")
    before = cli.json("show", "k")
    cli("context", "k", "--model", "gpt-6-luna")
    assert cli.json("context", "k")["report"]["context_tokens"] == 8192
    assert cli.json("show", "k") == before


def test_verify_tells_whole_from_altered(cli: CommandLine) -> None:
    """A whole history exits with 0; an altered one names the place and exits with 1, in JSON too."""
    cli.chat("--key", "k", "hi")
    assert cli("verify", "k").stdout.startswith("whole: 3 entries")
    assert cli.json("verify", "k")["ok"] is True
    file = sqlite3.connect(str(make_url(cli.database).database))
    file.execute("UPDATE convokit_message SET content = 'ho' WHERE seq = 1")
    file.commit()
    file.close()
    assert "message 1 is not what was written" in cli.mistake("verify", "k")
    assert cli.json("verify", "k", code=1)["ok"] is False


def test_a_failed_turn_is_shown_too(cli: CommandLine, server: LoopbackServer) -> None:
    """The question of a turn that failed is there, alone."""
    server.script(failure(400, "bad thing"))
    assert "bad thing" in cli.chat("--key", "k", "hello", code=1).stderr
    assert [message["text"] for message in cli.json("show", "k")["messages"]] == ["hello"]
