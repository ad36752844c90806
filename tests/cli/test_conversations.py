"""Test `ls`, `show`, `context` and `verify`."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

import pytest
from rich.cells import cell_len
from sqlalchemy.engine import make_url

from convokit import Budget, Convokit, Summary
from convokit.settings import SUMMARY_PROMPT
from tests.cli.conftest import CommandLine
from tests.support.server import LoopbackServer, completion, echo, failure, stream
from tests.support.token_counts import count_request, count_text

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
NARROW = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "60", "TERM": "xterm"}
WIDE = {**NARROW, "COLUMNS": "160"}


def _kit(cli: CommandLine, **settings: Any) -> Convokit:
    return Convokit(cli.database, model="loop-1", base_url=cli.base_url, **settings)


def test_ls_lists_the_last_used_first(cli: CommandLine) -> None:
    """A page names the cursor of the next one."""
    for key in ("one", "two", "three"):
        cli.chat("--key", key, "hi")
    cli.chat("--key", "one", "again")
    lines = cli("ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["conversation", "one", "three", "two"]
    assert lines[1].split()[1:] == ["4", "just", "now", "echo:", "again"]
    page = cli.json("ls", "--limit", "2")
    assert [found["key"] for found in page["conversations"]] == ["one", "three"]
    rest = cli.json("ls", "--before", page["next"])
    assert [found["key"] for found in rest["conversations"]] == ["two"]
    assert rest["next"] is None
    assert f"--before {page['next']}" in cli("ls", "--limit", "2").stderr


def test_ls_filters_by_subject(cli: CommandLine) -> None:
    with _kit(cli) as kit:
        kit.chat("a", subject="hanako", title="東京への旅").send("hi")
        kit.chat("b", subject="taro").send("hi")
    assert [found["key"] for found in cli.json("ls", "--subject", "hanako")["conversations"]] == ["a"]
    lines = cli("ls").stdout.splitlines()
    assert lines[0].split() == ["conversation", "messages", "last", "used", "title", "subject", "last", "message"]
    assert lines[2].split()[-4:] == ["東京への旅", "hanako", "echo:", "hi"]
    assert "no conversations of nobody yet" in cli("ls", "--subject", "nobody").stderr


def test_narrow_terminal_cuts_titles_but_no_ids(cli: CommandLine) -> None:
    """A Japanese character takes two cells."""
    with _kit(cli) as kit:
        chat = kit.chat(title="とても長い日本語の題名がここにあります" * 4)
        chat.send("hi")
    shown = _STYLE.sub("", cli("ls", env=NARROW).stdout)
    assert max(map(cell_len, shown.splitlines())) <= 60
    assert str(chat.id) in shown
    assert "  とても長い日本語の題名" in shown
    assert "…" in shown


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("long", ["x" * 300, "とても長い日本語のキー" * 20], ids=["ASCII", "Japanese"])
def test_a_long_key_leaves_the_other_columns(cli: CommandLine, width: int, long: str) -> None:
    """The table keeps its columns, and cuts the long key only."""
    with _kit(cli) as kit:
        for key in ("short", long, "二つ目"):
            kit.chat(key).send("hi")
    result = cli("ls", env={**NARROW, "COLUMNS": str(width)})
    lines = _STYLE.sub("", result.stdout).splitlines()
    assert [line.split() for line in (lines[0], lines[1], lines[3])] == [
        ["conversation", "messages", "last", "used", "last", "message"],
        ["二つ目", "2", "just", "now", "echo:", "hi"],
        ["short", "2", "just", "now", "echo:", "hi"],
    ]
    assert lines[2].startswith(long[:10])
    assert lines[2].rstrip().endswith("2  just now   echo: hi")
    assert len({cell_len(line.rstrip()) for line in lines[1:]}) == 1
    assert cell_len(lines[2].rstrip()) <= width
    assert ("a long key is cut" in result.stderr) == ("…" in lines[2])
    assert long in cli("ls").stdout  # a pipe gets the whole key


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_ls_fits_every_width(cli: CommandLine, width: int) -> None:
    with _kit(cli) as kit:
        kit.chat("鍵" * 40, title="題名" * 40, subject="花子" * 10).send("hi")
        unnamed = kit.chat(title="idonly")
        unnamed.send("hi")
        kit.chat("gone").send("hi")
        kit.chat("gone").erase(author="花子", reason="頼まれた")
    shown = _STYLE.sub("", cli("ls", env={**NARROW, "COLUMNS": str(width)}).stdout)
    lines = [line for line in shown.splitlines() if "鍵" not in line]
    assert max(map(cell_len, lines)) <= width
    assert str(unnamed.id) in shown
    for word in ("idonly", "題名", "花子", "gone"):
        assert word in shown
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d", shown)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_ls_shows_the_last_message_where_it_fits(cli: CommandLine, width: int) -> None:
    """A narrow terminal gets the other columns in a table, or all parts below each other."""
    with _kit(cli) as kit:
        kit.chat("旅行の相談:" + "花子" * 60, title="京都への旅行の計画を立てる" * 3).send(
            "京都の紅葉はいつ頃が見頃ですか" * 5
        )
        kit.chat("b", title="短い題").send("二行\nの文")
        kit.chat("b").update(archived=True)
    shown = _STYLE.sub("", cli("ls", env={**NARROW, "COLUMNS": str(width)}).stdout)
    lines = shown.splitlines()
    assert all(
        cell_len(line.rstrip()) <= width for line in lines if not line.startswith("旅行の相談:花子") or width > 60
    )
    for part in ("旅行の相談:", "京都への旅行", "短い題", "archived"):
        assert part in shown
    assert ("echo: 二行 の文" in shown) == (width != 80)


def test_ls_filters(cli: CommandLine) -> None:
    """Every filter of `kit.conversations` has an option."""
    with _kit(cli) as kit:
        for key in ("user_1", "user%2", "東京"):
            kit.chat(key).send("hi")
        kit.chat("東京").update(archived=True)

    def keys(*arguments: str) -> list[str]:
        return [found["key"] for found in cli.json("ls", *arguments)["conversations"]]

    assert keys("--prefix", "user_") == ["user_1"]
    assert keys("--prefix", "user") == ["user%2", "user_1"]
    assert keys("--archived") == ["東京"]
    assert keys("--no-archived") == ["user%2", "user_1"]
    assert keys("--open") == keys("--until", "2020-01-01") == []
    assert len(keys("--no-open", "--since", "2020-01-01 12:00")) == 3
    assert "no conversation found" in cli("ls", "--prefix", "nothing").stderr


def test_rename_and_archive(cli: CommandLine) -> None:
    """A title is given and removed, a conversation archived and taken back; neither changes its place in the list."""
    for key in ("k", "later"):
        cli.chat("--key", key, "hi")
    assert "k: the title is 京都への旅" in cli("rename", "k", "京都への旅").stderr
    lines = cli("ls").stdout.splitlines()
    assert ["later" in lines[1], "京都への旅" in lines[2], "archived" in lines[2]] == [True, True, False]
    assert "k: no title" in cli("rename", "k", "--clear").stderr
    assert cli.json("rename", "k", "other")["title"] == "other"
    for bad in (["rename", "k"], ["rename", "k", ""], ["rename", "k", "x", "--clear"]):
        assert cli(*bad, code=2).stdout == ""
    assert "k is archived" in cli("archive", "k").stderr
    assert re.search(r"\barchived\b", cli("ls").stdout)
    assert cli.json("archive", "k", "--undo")["archived_at"] is None
    assert "conversation nothing" in cli("archive", "nothing", code=1).stderr


def test_ls_shows_who_erased_a_conversation(cli: CommandLine) -> None:
    """The time, the author and the reason are shown until the conversation goes on."""
    for key in ("kept", "gone"):
        cli.chat("--key", key, "hi")
    assert "erased" not in cli("ls").stdout
    cli("erase", "gone", "--yes", "--author", "花子", "--reason", "頼まれた")
    lines = cli("ls").stdout.splitlines()
    assert lines[0].split() == ["conversation", "messages", "last", "used", "erased", "last", "message"]
    found = {item["key"]: item for item in cli.json("ls")["conversations"]}
    assert (found["gone"]["erased_by"], found["gone"]["erase_reason"]) == ("花子", "頼まれた")
    assert (found["kept"]["erased_at"], found["kept"]["erased_by"]) == (None, None)
    shown = next(line for line in lines if line.startswith("gone"))
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d by 花子: 頼まれた", shown)
    cli.chat("--key", "gone", "again")
    assert "erased" not in cli("ls").stdout


def test_show_tells_what_was_erased(cli: CommandLine) -> None:
    """Of an erased conversation, of its part before it went on, and of a single message."""
    cli.chat("--key", "k", "one")
    cli("redact", "k", "1", "--yes", "--author", "taro", "--reason", "a name")
    head = cli("show", "k").stdout.splitlines()[0]
    assert re.fullmatch(r"user  \S+ \S+  \(redacted \S+ \S+ by taro: a name\)", head)
    cli("erase", "k", "--yes", "--author", "花子\x1b[31m", "--reason", "頼まれた")
    (line,) = cli("show", "k").stdout.splitlines()
    assert re.fullmatch(r"all messages until then were erased \S+ \S+ by 花子␛\[31m: 頼まれた", line)
    assert cli("show", "k", "--tree").stdout.splitlines()[0] == line
    removals = cli.json("show", "k")["removals"]
    assert [(each["ref"], each["author"]) for each in removals] == [("message:1", "taro"), ("*", "花子\x1b[31m")]
    cli.chat("--key", "k", "two")
    assert cli("show", "k").stdout.splitlines()[0] == line
    assert [message["text"] for message in cli.json("show", "k")["messages"]] == ["two", "echo: two"]


def test_show_prints_text_unchanged(cli: CommandLine) -> None:
    """Lines and tabs stay, and a pipe gets no wrapping."""
    cli.chat("--key", "k", "long " * 50 + "\n\tend")
    lines = cli("show", "k").stdout.splitlines()
    assert lines[0].startswith("user  20")
    assert lines[1:3] == [("long " * 50), "\tend"]
    assert lines[4].startswith("assistant  20")


def test_show_finds_ids_then_keys_then_the_latest(cli: CommandLine) -> None:
    """A key may look like an id."""
    odd = "0af7651916cd43dd8448eb211c80319c"
    cli.chat("--key", odd, "by odd key")
    cli.chat("--key", "k", "by key")
    found = cli.json("show")
    assert found["key"] is None
    assert [message["text"] for message in found["messages"]] == ["by key", "echo: by key"]
    assert cli.json("show", found["conversation_id"]) == found
    assert cli.json("show", "k")["messages"] == found["messages"]
    assert cli.json("show", odd)["messages"][0]["text"] == "by odd key"


def test_show_last_limits_the_messages(cli: CommandLine) -> None:
    for number in range(3):
        cli.chat("--key", "k", f"q{number}")
    result = cli("show", "k", "--last", "3")
    assert "q0" not in result.stdout
    assert result.stdout.count("user  20") == 1
    assert "earlier messages are not shown" in result.stderr
    assert cli("show", "k", "--last", "6").stderr == ""


def test_stored_text_cannot_steer_the_terminal(cli: CommandLine) -> None:
    """JSON escapes the same characters and stays exact."""
    evil = "a\x1b]0;owned\x07b\rc\u202ed\x9b2Je"
    cli.chat("--key", "k", evil)
    shown = cli("show", "k").stdout
    assert "a␛]0;owned␇b␍c<U+202E>d<U+009B>2Je" in shown
    printed = cli("show", "k", "--json").stdout
    assert not any(character in printed for character in "\x1b\x07\r\u202e\x9b")
    assert cli.json("show", "k")["messages"][0]["text"] == evil


def test_rich_markup_in_text_is_printed_as_text(cli: CommandLine) -> None:
    cli.chat("--key", "[bold]k[/bold]", "[red]hot[/red] :smile: [link=file:///etc]x[/link]")
    assert "[red]hot[/red] :smile: [link=file:///etc]x[/link]" in cli("show", env=NARROW).stdout
    assert "[bold]k[/bold]" in cli("ls", env=NARROW).stdout


def test_partial_replies_are_marked(cli: CommandLine, server: LoopbackServer) -> None:
    with _kit(cli) as kit, kit.chat("k").stream("one two three") as events:
        while not next(iter(events)).text:
            pass
    assert "(partial)" in cli("show", "k").stdout


def test_context_shows_the_parts_of_the_request(cli: CommandLine) -> None:
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
    assert "counted by ~o200k_base" in shown
    assert "window: " in shown


def test_context_shows_messages_that_are_left_out(cli: CommandLine) -> None:
    for number in range(12):
        cli.chat("--key", "k", f"question {number} " + "日本語の長い文章です。" * 200)
    found = cli.json("context", "k", "--text", "次は?")
    assert found["messages"][-1] == {"role": "user", "content": "次は?"}
    assert found["report"]["start"] > 1
    shown = _STYLE.sub("", cli("context", "k", "--text", "次は?", env=NARROW).stdout)
    assert "tokens before it are left out" in " ".join(shown.split())
    assert max(map(cell_len, shown.splitlines())) <= 60


def test_context_shows_the_summary(cli: CommandLine, server: LoopbackServer) -> None:
    """The command also tells if the next question would make a new summary."""
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


def test_context_shows_window_moves_and_cache(cli: CommandLine, server: LoopbackServer) -> None:
    cli.chat("--key", "k", "-p", "Be brief.", "first")
    assert "cache: no hit expected" in cli("context", "k", "--model", "another").stdout
    reported = {"prompt_tokens": 1500, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1234}}
    server.script(completion("二番目", usage={**reported, "total_tokens": 1503}))
    cli.chat("--key", "k", "--no-stream", "second")
    report = cli.json("context", "k", "--text", "third")["report"]
    assert report["model"] == "loop-1"
    assert report["last_call"]["cached_tokens"] == 1234
    assert 0 < report["last_call"]["expected_tokens"] < report["stable_tokens"] < report["tokens"]
    shown = cli("context", "k", "--text", "third").stdout
    assert (
        f"tokens of loop-1, counted by {report['counter']}, times {report['factor']:g} as the server reported" in shown
    )
    rows = {line.rsplit("%", 1)[0] for line in shown.splitlines()}
    assert any(row.startswith("used of 7,168 ") and row.endswith(f" {report['fill']}") for row in rows)
    assert f"; its start moves after {report['moves_in_tokens']:,} more tokens of messages" in shown
    assert (
        f"cache: the previous request had the first {report['stable_tokens']:,} of {report['tokens']:,} prompt tokens"
        in shown
    )
    expected = report["last_call"]["expected_tokens"]
    assert f"last call: 1,234 of 1,500 prompt tokens from cache (expected {expected:,})" in shown
    narrow = _STYLE.sub("", cli("context", "k", "--text", "third", env=NARROW).stdout)
    assert max(map(cell_len, narrow.splitlines())) <= 60


def test_chat_usage_shows_reported_and_expected_tokens(cli: CommandLine, server: LoopbackServer) -> None:
    """The server may report no cached tokens, or no tokens at all."""
    assert "usage: " not in cli.chat("--key", "k", "first").stderr
    expected = cli.json("context", "k", "--text", "second")["report"]["stable_tokens"]
    result = cli.chat("--key", "k", "--usage", "second")
    prompt, reply = count_request(server.requests[-1].body), count_text("echo: second")
    reported = (
        f"{prompt} prompt tokens; the server reported no cached tokens (expected {expected:,}); {reply} reply tokens"
    )
    assert f"usage: {reported}" in result.stderr
    assert "usage" not in result.stdout
    server.script(stream(["no ", "usage"], done=False))
    result = cli.chat("--key", "k", "--usage", "third")
    assert "usage: the server reported no prompt tokens (expected from cache: " in result.stderr
    assert "last call: the server reported no prompt tokens" in cli("context", "k").stdout


def test_tokens_above_the_input_limit_are_not_free(cli: CommandLine) -> None:
    """Some models take less input than their window."""
    cli.chat("--key", "k", "hi")
    report = cli.json("context", "k", "--model", "gpt-6-luna")["report"]
    shown = cli("context", "k", "--model", "gpt-6-luna").stdout
    rows = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    free = report["available"] - (report["tokens"] - report["fixed_tokens"])
    assert rows["free"][1] == f"{free:,}"
    assert "above the input limit" in rows
    assert "input limit" not in cli("context", "k").stdout


def test_context_needs_no_server_but_a_model(cli: CommandLine, server: LoopbackServer) -> None:
    with _kit(cli) as kit:
        kit.chat("k").send("hi")
    calls = len(server.requests)
    assert "no model was given" in cli.mistake("context", "k")
    assert cli.json("context", "k", "--model", "gpt-6-luna")["report"]["context_tokens"] > 100_000
    assert len(server.requests) == calls


def test_context_stores_nothing(cli: CommandLine) -> None:
    cli.chat("--key", "k", "hi")
    before = cli.json("show", "k")
    cli("context", "k", "--model", "gpt-6-luna")
    assert cli.json("context", "k")["report"]["context_tokens"] == 8192
    assert cli.json("show", "k") == before


def test_verify_finds_an_altered_message(cli: CommandLine) -> None:
    cli.chat("--key", "k", "hi")
    assert cli("verify", "k").stdout.startswith("whole: 3 entries")
    assert cli.json("verify", "k")["ok"] is True
    file = sqlite3.connect(str(make_url(cli.database).database))
    file.execute("UPDATE convokit_message SET content = 'ho' WHERE seq = 1")
    file.commit()
    file.close()
    assert "message 1 is not what was written" in cli.mistake("verify", "k")
    assert cli.json("verify", "k", code=1)["ok"] is False


def test_show_includes_the_question_of_a_failed_turn(cli: CommandLine, server: LoopbackServer) -> None:
    server.script(failure(400, "bad thing"))
    assert "bad thing" in cli.chat("--key", "k", "hello", code=1).stderr
    assert [message["text"] for message in cli.json("show", "k")["messages"]] == ["hello"]
