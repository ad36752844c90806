"""What search costs: the bytes of its index, and the time of a search against LIKE.

`python -m tests.benchmarks.search [MESSAGES] [CONVERSATIONS] [--write PAGE]` (20,000 and 100), half of the messages in Japanese
and half in English, of 300 and 800 characters: words drawn by Zipf's law, so that a few are everywhere and most are rare. On a
SQLite file and on PostgreSQL. A search is its first page of 20: read, ranked and cut into snippets; LIKE is the newest 20 rows
of the tenant by `content LIKE '%word%'`, without rank and snippet. Both take turns; medians of 5, wall time.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from convokit import Convokit
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import MessageRow
from convokit.store import conversations, messages, migrations, search_index
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.benchmarks import page
from tests.support.databases import Files, Postgres

KANJI = (
    "日一国会人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定今回新場金員九入選立開手"
    "米力学問高代明実円関決子動京全目表戦経通外最言氏現理調体化田当八六約主題下首意法不来作性的要用制治度務強気小七成期公野協"
    "取都和統以機平総加山思家話世受区領多県続進正安設保改数記院女初北午指権心界支第産結百派点教報済書府活原先共得解名交資予川"
    "向際査勝面委告軍文反元重近千考判認画海参売利組知案道信策集在件団別物側任引使求所次水半品昨論計死官増係感特情投示変打男基"
    "私各始島直両朝革価式確村提運終挙果西勢減台広容必応演電歳住争談能無再位置企真流格有疑口過局少放税検藤町常校料沢裁状工建語"
    "球営空職証土与急止送援供可役構木割聞身費付施切由説転食比難防補車優夫研収断井何南石足違消境神番規術護展態導鮮備宅害配副算"
    "視条幹独警宮究育席輸訪楽起万着乗店述残想線率病農州武声質念待試族象銀域助労例衛然早張映限親額監環験追審商葉義伝働形景落欧"
    "担好退準賞訴辺造英被株頭技低毎医復仕去姿味負閣韓渡失移差衆個門写評課末守若脳極種美岡影命含福蔵量望松非撃佐核観察整段横融"
    "型白深字答夜製票況音申様財港識注呼渉達"
)
KANA = "をがはにでとのもへやからまでよりなどこそだけしていますでしたないるれらりう"
STARTS = "abcdefghiklmnoprstuvw"


def vocabulary(draw: random.Random, japanese: bool, count: int = 3_000) -> list[str]:
    """Return made-up words: kanji with kana behind them, or letters."""
    if japanese:
        parts = [KANJI, KANJI, "", KANA, KANA]
        return ["".join(draw.choice(each) for each in draw.sample(parts, 3) if each) for _ in range(count)]
    return [draw.choice(STARTS) + "".join(draw.choices("aeiourstln", k=draw.randint(1, 8))) for _ in range(count)]


def talk(draw: random.Random, words: list[str], weights: list[float], japanese: bool) -> str:
    """Return one message."""
    chosen = draw.choices(words, cum_weights=weights, k=110 if japanese else 130)
    return (
        "".join(word + ("、" if at % 9 == 8 else "") for at, word in enumerate(chosen))
        if japanese
        else " ".join(chosen)
    )


def texts(count: int) -> Iterator[str]:
    """Yield messages, every other one in Japanese."""
    draw = random.Random(7)
    known = [vocabulary(draw, japanese) for japanese in (True, False)]
    weights: list[float] = []
    for rank in range(1, len(known[0]) + 1):
        weights.append((weights[-1] if weights else 0.0) + 1 / rank)
    for number in range(count):
        yield talk(draw, known[number % 2], weights, number % 2 == 0)


def fill(engine: Engine, said: list[str], among: int) -> None:
    """Write the messages to conversations of one tenant, in the order of their time."""
    with engine.begin() as connection:
        database_id = migrations.check_schema(connection, "it")
        ids = [derive_conversation_id(database_id, "default", f"k{number}") for number in range(among)]
        for number, each in enumerate(ids):
            row = ConversationRow(
                each,
                "default",
                f"k{number}",
                None,
                None,
                None,
                None,
                None,
                0,
                0,
                hashchain.genesis_hash(each),
                1,
                len(said) * 1_000_000,
                None,
            )
            conversations.create(connection, row)
    for start in range(0, len(said), 1000):
        with engine.begin() as connection:
            for at in range(start, min(start + 1000, len(said)), among):
                for number, content in enumerate(said[at : at + among]):
                    messages.append(connection, ids[number], [_row(at // among + 1, content, at + number)])


def _row(seq: int, content: str, at: int) -> MessageRow:
    role = "user" if seq % 2 else "assistant"
    return MessageRow(seq, seq - 1 or None, 1, None, role, "complete", 1, "none", seq, at * 1_000_000, content=content)


def milliseconds(*calls: Callable[[], Any]) -> list[float]:
    """Return the medians of five of calls that take turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(5):
        for call, times in zip(calls, taken, strict=True):
            began = time.perf_counter()
            call()
            times.append((time.perf_counter() - began) * 1000)
    return [statistics.median(each) for each in taken]


def size(connection: Connection) -> int:
    """Return how many bytes the index has."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(text("SELECT pg_total_relation_size('convokit_search')")).scalar_one())
    statement = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE 'convokit\\_search%' ESCAPE '\\'"
    return int(connection.execute(text(statement)).scalar_one())


def like(engine: Engine, word: str) -> int:
    """Find the newest 20 without an index."""
    statement = """SELECT m.* FROM convokit_message m JOIN convokit_conversation c ON c.id = m.conversation_id
        WHERE c.tenant = 'default' AND m.content LIKE :word ORDER BY m.created_at DESC LIMIT 20"""
    with engine.connect() as connection:
        return len(connection.execute(text(statement), {"word": f"%{word}%"}).all())


def asked(said: list[str]) -> dict[str, str]:
    """Return words by how many messages hold them: everywhere, in a hundredth, in one."""
    japanese, english = said[0::2], said[1::2]
    rare = japanese[len(japanese) // 2].split("、")
    common = max(set(english[0].split()), key=lambda word: sum(word in each for each in english[:200]))
    pairs = [japanese[0][at : at + 2] for at in range(200) if "、" not in japanese[0][at : at + 2]]
    held = {pair: sum(pair in each for each in japanese[:500]) for pair in pairs}
    by_count = sorted(pairs, key=held.__getitem__)
    return {
        "two characters, everywhere": by_count[-1],
        "two characters, some": min(pairs, key=lambda pair: abs(held[pair] - 5)),
        "two characters, rare": by_count[0],
        "one character, everywhere": max("のをがは", key=lambda sign: sum(sign in each for each in japanese[:200])),
        "one character, some": by_count[0][0],
        "ten characters of one message": max(rare, key=len)[:10],
        "a word, everywhere": common,
        "three words of one message": " ".join(english[len(english) // 2].split()[60:63]),
        "a word that is nowhere": "xylophone",
    }


def measure(name: str, url: str, said: list[str], among: int) -> str:
    """Return what one database says."""
    engine = open_engine(parse_database_url(url)).execution_options(**{WRITE: True})
    fill(engine, said, among)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
        index = size(connection)
    lines = []
    with Convokit(url, model="none") as kit:
        words = asked(said)
        for what, word in words.items():
            own, least = milliseconds(partial(kit.search, word), partial(like, engine, word))
            ratio = f"{own / least:.2f}"
            lines.append([what, f"{own:,.1f}", f"{least:,.1f}", ratio, str(len(kit.search(word).items))])
        [inside] = milliseconds(partial(kit.search, words["two characters, everywhere"], key="k3"))
        lines.append(["the first, in one conversation", f"{inside:,.1f}", "", "", ""])
    engine.dispose()
    found = f"index {index / len(said):,.0f} bytes a message, {index / total(said):.2f} of the text"
    table = page.table((name, "search, ms", "LIKE, ms", "search / LIKE", "hits on the page"), lines)
    return f"{name}, {len(said):,} messages in {among:,} conversations; {found}:\n\n{table}"


def total(said: list[str]) -> int:
    """Return the bytes of the text."""
    return sum(len(each.encode()) for each in said)


def sizes(held: Files | Postgres, said: list[str], name: str) -> None:
    """Print the size of the index of messages in one language."""
    url = held.migrated()
    engine = open_engine(parse_database_url(url)).execution_options(**{WRITE: True})
    fill(engine, said, 10)
    with engine.begin() as connection:
        found = size(connection)
        search_index.optimize(connection)
    with engine.begin() as connection:
        least = size(connection)
    dense = "" if least == found else f", {least / total(said):.2f} after optimize"
    print(f"  {name}: {total(said) / len(said):,.0f} bytes of text, index {found / total(said):.2f} of it{dense}")
    engine.dispose()


def main(count: int = 20_000, among: int = 100) -> str:
    """Print the tables and return them."""
    said, parts = list(texts(count)), []
    with tempfile.TemporaryDirectory() as folder, closing(Postgres(durable=True)) as server:
        for held, name in ((Files(Path(folder)), "SQLite"), (server, "PostgreSQL")):
            parts.append(measure(name, held.migrated(), said, among))
            print(parts[-1], end="\n\n", flush=True)
            sizes(held, said[0:10_000:2], "Japanese")
            sizes(held, said[1:10_000:2], "English")
            sizes(held, [each[:20] for each in said[0:10_000:2]], "Japanese, 20 characters")
    return "\n\n".join(parts)


if __name__ == "__main__":
    page.run("search", main)
