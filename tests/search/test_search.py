"""Test the search through the public API, with words of many scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from convokit import Budget, Limits
from convokit.domain import search_words
from convokit.errors import InvalidInput, NotFound, SettingsError, TooLarge
from convokit.search import flows
from convokit.store import search_index, write_batch
from tests.completion.summaries import BUDGET, SUMMARY, Writer, talk_until
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, echo, failure

SAID = [
    "東京都の天気を教えて",  # 1
    "京都の天気は？",  # 3
    "東京tower に登りたい",  # 5
    "ｶﾀｶﾅとＡＢＣ１２３のマニュアル",  # 7
    "我想去北京看长城",  # 9
    "서울에서 만나요",  # 11
    "Un café à Straßburg, s'il vous plaît",  # 13
    "emoji 👩‍👩‍👧 and 🗼🎉",  # 15
    "สวัสดีครับ ประเทศไทย",  # 17
    'the words "AND" OR NOT NEAR(a, b) col:x -y * ^z',  # 19
    "Плёнка и ΑΘΗΝΑ",  # 21
]


@pytest.fixture
def found(face: Face, kit: Any) -> Callable[..., list[int]]:
    """Return the seqs of the questions that hold words, in a conversation in many scripts."""
    for text in SAID:
        face.settle(kit.chat("scripts").send(text))

    def ask(query: str, **given: Any) -> list[int]:
        return sorted(hit.message.seq for hit in face.settle(kit.search(query, role="user", **given)))

    return ask


QUERIES = {
    "天": [1, 3], "天気": [1, 3], "東": [1, 5], "東京": [1, 5], "東京都": [1], "京都": [1, 3], "京都の天気": [1, 3],
    "都京": [], "気天": [], "教": [1], "て": [1], "タワー": [],
    "東京tower": [5], "東京 TOWER": [5], "tower": [5], "towe": [], "に登り": [5], "東京タワー": [],
    "カタカナ": [7], "ｶﾅ": [7], "abc": [], "ABC123": [7], "ＡＢＣ１２３": [7], "マニュアル": [7], "ﾏﾆｭｱﾙ": [7], "カ": [7],
    "北京": [9], "长": [9], "看长城": [9], "长看": [],
    "서울": [11], "서": [11], "만나요": [11], "서울에서 만나요": [11], "울에": [11],
    "cafe": [13], "CAFÉ": [13], "cafe\u0301": [13], "strassburg": [13], "STRASSBURG": [13], "plait": [13],
    "👧": [15], "🗼": [15], "🗼🎉": [15], "🎉🗼": [], "😀": [],
    "ไทย": [17], "สวัสดี": [17],
    "AND": [15, 19], "NOT": [19], "NEAR(": [19], "near a b": [19], "col:x": [19], "-y": [19], "*": None, "^z": [19],
    '"AND" OR NOT': [19], 'AND "': [15, 19], "') OR 1=1 --": [], '"words AND or"': [19], '"AND words"': [],
    '"not near"': [19], '"near not"': [], "words*": [19], "wor*": [],
    "пленка": [21], "Αθηνα": [21], "αθήνα": [21],
}  # fmt: skip


def test_words_of_every_script_are_found(found: Callable[..., list[int]]) -> None:
    """Languages without spaces are found by one, two or more neighbouring characters; width, case and accents do not matter.

    Operators of search engines are plain words; words in double quotes must follow each other.
    """
    for query, expected in QUERIES.items():
        if expected is None:
            with pytest.raises(InvalidInput, match="contains no word"):
                found(query)
        else:
            assert found(query) == expected, query


def test_a_hit_has_message_snippet_and_marks(face: Face, kit: Any) -> None:
    """The marks are the words as they were written."""
    text = "前置き。" * 60 + "ここに東京ﾀﾜｰがあり、" + "ＴＯＫＹＯ " + "後書き。" * 60
    sent = face.settle(kit.chat("tall", title="x").send(text))
    hit = face.settle(kit.search("東京タワー tokyo", role="user")).items[0]
    assert (hit.key, str(hit.conversation_id)) == ("tall", sent.message.id.partition(":")[0])
    assert (hit.message.seq, hit.message.role, hit.message.text) == (1, "user", text)
    assert [hit.snippet[start:end] for start, end in hit.marks] == ["東京ﾀﾜｰ", "ＴＯＫＹＯ"]
    assert hit.snippet[0] == hit.snippet[-1] == "…"
    assert len(hit.snippet) <= 122
    assert hit.highlighted("<", ">").count("<東京ﾀﾜｰ>") == 1
    assert 0 < hit.rank <= 1


def test_hits_are_ordered_by_rank(face: Face, kit: Any) -> None:
    """A phrase beats single words, frequent beats rare, short beats long; of equal ranks the newer comes first."""
    said = ["port 80", "port 80 " + "blah " * 400, "80 is the port", "port 80, port 80, port 80", "port 80"]
    for text in said:
        face.settle(kit.chat("k").send(text))
    hits = face.settle(kit.search("port 80", role="user"))
    assert [hit.message.seq for hit in hits] == [7, 9, 1, 3, 5]
    assert [hit.rank for hit in hits] == sorted((hit.rank for hit in hits), reverse=True)


def test_filters(face: Face, kit: Any) -> None:
    """Role, conversation, subject, time and metadata restrict a search; metadata match by value and type."""
    chats = {
        "one": {"subject": "hanako", "metadata": {"team": "紫", "level": 1, "open": True, "share": 0.5, "none": None}},
        "two": {"subject": "taro", "metadata": {"team": "red", "level": 2, "open": False, 'odd"k.[0]': "x"}},
        "three": {},
    }
    for key, given in chats.items():
        face.settle(kit.chat(key, **given).send("共通の言葉"))
    ids = {hit.key: hit.conversation_id for hit in face.settle(kit.search("言葉"))}

    def keys(**given: Any) -> list[str]:
        return sorted(hit.key for hit in face.settle(kit.search("言葉", role="user", **given)))

    assert keys() == ["one", "three", "two"]
    assert [hit.message.role for hit in face.settle(kit.search("言葉", role="assistant", key="one"))] == ["assistant"]
    assert len(face.settle(kit.search("言葉", role="tool"))) == 0
    assert keys(key="two") == ["two"]
    assert keys(id=ids["two"]) == keys(id=str(ids["two"])) == ["two"]
    assert keys(subject="hanako") == ["one"]
    for metadata, expected in (
        ({"team": "紫"}, ["one"]), ({"team": "purple"}, []), ({"level": 1}, ["one"]), ({"level": 1.0}, []),
        ({"level": "1"}, []), ({"level": True}, []), ({"open": True}, ["one"]), ({"open": 1}, []),
        ({"open": False}, ["two"]), ({"share": 0.5}, ["one"]), ({"none": None}, ["one"]), ({"nothing": None}, []),
        ({'odd"k.[0]': "x"}, ["two"]), ({"team": "red", "level": 2}, ["two"]), ({"team": "red", "level": 1}, []),
        ({}, ["one", "three", "two"]),
    ):  # fmt: skip
        assert keys(metadata=metadata) == expected, metadata
    now = datetime.now(UTC)
    assert keys(since=now - timedelta(hours=1), until=now + timedelta(hours=1)) == ["one", "three", "two"]
    assert keys(since=now + timedelta(hours=1)) == keys(until=now - timedelta(hours=1)) == []
    first = next(hit for hit in face.settle(kit.search("言葉", role="user", key="one"))).message.created_at
    assert keys(until=first) == []
    assert "one" in keys(since=first)


def test_invalid_parameters_are_rejected_by_name(face: Face, kit: Any) -> None:
    """InvalidInput names the parameter; an unknown conversation raises NotFound."""
    face.settle(kit.chat("k").send("word"))
    cursor = face.settle(kit.search("word", limit=1)).next
    for query, given, name in (
        ("", {}, "query"), ("  ", {}, "query"), ('"" () :', {}, "query"), (7, {}, "query"), ("w" * 1001, {}, "query"),
        ("a " * 33, {}, "query"), ("word", {"role": "boss"}, "role"), ("word", {"key": "k", "id": "x"}, "key"),
        ("word", {"id": "x"}, "id"), ("word", {"subject": "\x00"}, "subject"), ("word", {"since": "2026"}, "since"),
        ("word", {"until": datetime(2026, 1, 1)}, "until"),
        ("word", {"summaries": "yes"}, "summaries"), ("word", {"before": cursor, "summaries": True}, "before"),
        ("word", {"limit": 0}, "limit"), ("word", {"limit": 101}, "limit"), ("word", {"limit": True}, "limit"),
        ("word", {"metadata": {"a": []}}, "metadata.a"), ("word", {"metadata": {1: "a"}}, "metadata"),
        ("word", {"metadata": {"a": float("nan")}}, "metadata.a"), ("word", {"metadata": {"a": 2**60}}, "metadata.a"),
        ("word", {"metadata": []}, "metadata"), ("word", {"before": "nonsense"}, "before"),
        ("word", {"before": 3}, "before"), ("other", {"before": cursor}, "before"),
        ("word", {"before": cursor, "role": "user"}, "before"), ("word", {"before": cursor[:-5]}, "before"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput) as caught:
            face.settle(kit.search(query, **given))
        assert caught.value.field == name, (query, given)
    with pytest.raises(TooLarge):
        face.settle(kit.search("word", subject="s" * 5000))
    for missing in ({"key": "nobody"}, {"id": "00000000-0000-7000-8000-000000000000"}):
        with pytest.raises(NotFound):
            face.settle(kit.search("word", **missing))


def test_other_tenants_are_not_searched(face: Face, kit: Any) -> None:
    """Results and ranks are as if no other tenant existed; a cursor of another tenant is invalid."""
    other = kit.tenant("other")
    for number in range(3):
        face.settle(kit.chat("k").send(f"共有 secret {number}"))
    assert len(face.settle(other.search("共有"))) == 0
    face.settle(other.chat("k").send("共有 secret of another"))
    assert [hit.message.text for hit in face.settle(other.search("共有 secret", role="user"))] == [
        "共有 secret of another"
    ]
    mine = face.settle(kit.search("共有", limit=2))
    with pytest.raises(InvalidInput):
        face.settle(other.search("共有", limit=2, before=mine.next))
    with pytest.raises(NotFound):
        face.settle(other.search("共有", id=mine.items[0].conversation_id))


def test_questions_of_failed_calls_and_refusals_are_found(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Passages and developer prompts are not found."""
    server.script(failure(400))
    with pytest.raises(Exception, match="400"):
        face.settle(kit.chat("k", developer_prompt="指示だけ").send("失敗した質問"))
    server.script(completion(None, refusal="お断りします"))
    face.settle(kit.chat("k").send("断られる質問", passages=["資料だけの段落"]))
    assert len(face.settle(kit.search("失敗した質問"))) == 1
    assert [hit.message.role for hit in face.settle(kit.search("お断り"))] == ["assistant"]
    assert len(face.settle(kit.search("段落"))) == len(face.settle(kit.search("指示"))) == 0


def test_a_kit_without_search(face: Face, database: str, server: LoopbackServer) -> None:
    """`search=False` writes no index and rejects searches; `reindex` of another kit adds the missing messages."""
    plain = face.kit(database, model="loop-1", base_url=server.url, search=False)
    for number in range(3):
        face.settle(plain.chat(f"k{number}").send("見逃した言葉"))
    for call in (lambda: plain.search("言葉"), plain.reindex):
        with pytest.raises(SettingsError, match="search=False"):
            face.settle(call())
    kit = face.kit(database, model="loop-1", base_url=server.url)
    assert len(face.settle(kit.search("見逃した"))) == 0
    counts: list[int] = []
    assert face.settle(kit.tenant("other").reindex()) == 0
    assert face.settle(kit.reindex(progress=counts.append)) == counts[-1] == 6
    assert len(face.settle(kit.search("見逃した"))) == 6
    assert face.settle(kit.reindex()) == 0
    with pytest.raises(SettingsError, match="search"):
        face.kit(database, model="m", search="yes")


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_the_index_limits_long_messages(face: Face, database: str, server: LoopbackServer) -> None:
    """A turn of any length is saved, and its first 65,536 characters are found."""
    large = {"limits": Limits(message_bytes=8 * 1024 * 1024), "budget": Budget(context_tokens=10**8)}
    kit = face.kit(database, model="loop-1", base_url=server.url, **large)
    signs = [chr(code) for code in range(0x4E00, 0x9F00)]
    for key, text in (
        ("varied", "始まり" + "".join(signs[at * at % len(signs)] + signs[at % 7919] for at in range(175_000)) + "終わり"),
        ("expanding", "始まり" + "\ufdfa" * 100_000), ("one word", "始まり" + "a" * 1_000_000),
        ("words", "始まり " + " ".join(f"w{number:x}" for number in range(150_000))),
    ):  # fmt: skip
        server.script(completion("了解"))
        face.settle(kit.chat(key).send(text))
        assert face.settle(kit.chat(key).messages())[0].text == text
    assert {hit.key for hit in face.settle(kit.search("始まり", role="user"))} == {
        "varied",
        "expanding",
        "one word",
        "words",
    }
    assert len(face.settle(kit.search("終わり"))) == 0


def test_words_are_split_before_the_transaction(face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long text is split into words, no writer waits for it."""
    writing, split = False, []
    write, build_keys = write_batch.write, search_words.build_keys

    @contextmanager
    def observe_write(*arguments: Any) -> Iterator[Any]:
        nonlocal writing
        writing = True
        try:
            with write(*arguments) as connection:
                yield connection
        finally:
            writing = False

    def observe_keys(text: str) -> set[str]:
        split.append((text, writing))
        return build_keys(text)

    monkeypatch.setattr(write_batch, "write", observe_write)
    monkeypatch.setattr(search_index, "build_keys", observe_keys)
    chat = kit.chat("k")
    face.settle(chat.send("a\u0301\u0316の質問", passages=["添付"]))
    face.collect(chat.stream("二番目"))
    assert [text for text, _ in split] == ["a\u0301\u0316の質問", "echo: a\u0301\u0316の質問", "二番目", "echo: 二番目"]
    assert not any(inside for _, inside in split)
    assert [hit.message.seq for hit in face.settle(kit.search("質問 a\u0316\u0301", role="user"))] == [2]


def test_a_kit_without_search_splits_no_words(
    face: Face, database: str, server: LoopbackServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(search_index, "build_keys", None)
    kit = face.kit(database, model="loop-1", base_url=server.url, search=False)
    assert face.settle(kit.chat("k").send("質問")).text == "echo: 質問"


def test_summaries_are_hits_only_if_asked_for(face: Face, database: str, server: LoopbackServer) -> None:
    """A rolling summary repeats what was said, but nobody said it. With `summaries=True`, hits mark it."""
    server.answer = Writer()
    kit = face.kit(database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY)
    talk_until(face, server, kit.chat("k"))
    server.answer = echo
    face.settle(kit.chat("other").send("so far"))
    for given in ({}, {"role": "user"}, {"key": "k"}, {"key": "k", "role": "user"}):
        hits = face.settle(kit.search("so far", **given)).items
        assert [(hit.key, hit.is_summary) for hit in hits if hit.key == "k"] == []
        assert not any(hit.is_summary for hit in hits)
    assert len(face.settle(kit.search("so far"))) == 2
    found = face.settle(kit.search("so far", summaries=True)).items
    assert sorted((hit.key, hit.is_summary, hit.message.status) for hit in found) == [
        ("k", True, "summary"),
        ("other", False, "complete"),
        ("other", False, "complete"),
    ]
    (hit,) = face.settle(kit.search("so far", key="k", summaries=True, role="user"))
    assert (hit.message.role, hit.is_summary) == ("user", True)


def test_pages_leave_out_summaries(
    face: Face, database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is full although summaries are among the candidates of its block."""
    server.answer = Writer()
    kit = face.kit(database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY)
    talk_until(face, server, kit.chat("k"), until=2)
    server.answer = echo
    for number in range(3):
        face.settle(kit.chat(f"{number}").send("so far"))
    for block in (2, 3, 256):
        monkeypatch.setattr(flows, "_BLOCK", block)
        seen, before = [], None
        while True:
            page = face.settle(kit.search("so far", limit=2, before=before))
            seen += [(hit.key, hit.message.seq) for hit in page]
            before = page.next
            if before is None:
                break
            assert len(page) == 2
        assert sorted(seen) == [(f"{number}", seq) for number in range(3) for seq in (1, 2)]
