"""A child process that sends turns, or appends rows, from many processes of many threads at once.

`python -m tests.faults.append_process {...}`; the argument is an `Order` as JSON. Every line it writes is one thing that
happened: a turn or row that was acknowledged, what was read meanwhile, or an error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Engine
from sqlalchemy import text as sql
from sqlalchemy.exc import SQLAlchemyError

from convokit import Convokit, Timeouts
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.domain.profiles import Profile
from convokit.domain.stored_request import Manifest
from convokit.domain.turn import CallRow
from convokit.store import conversations, engine
from convokit.store.turn_end import TurnEnd
from convokit.store.turn_start import TurnStart
from convokit.store.write_batch import Conflict


@dataclass
class Order:
    """What to do: `what` is turns, rows (the store's own functions), or highest (positions by SELECT max + 1)."""

    database: str
    url: str = ""
    what: str = "turns"
    processes: int = 8
    threads: int = 8
    each: int = 1
    keys: int = 1
    """Over how many conversations the threads are spread."""
    deferred: bool = False
    """Begin SQLite's writing transactions as reading ones, which the library never does."""
    readers: int = 1


_out = threading.Lock()


def tell(**facts: Any) -> None:
    """Write one line, whole, whoever else writes."""
    line = (json.dumps(facts) + "\n").encode()
    with _out:
        while line:
            line = line[os.write(1, line) :]


def main() -> None:
    """Fork the processes from one that has imported everything, and wait for them."""
    order = Order(**json.loads(sys.argv[1]))
    if order.deferred:
        engine.WRITE = "convokit_never"
    writers = [_forked(partial(_write, order, number)) for number in range(order.processes)]
    reading = [_forked(partial(_read, order)) for _ in range(order.readers)]
    codes = [_code(pid) for pid in writers]
    for pid in reading:
        os.kill(pid, 15)
    [_code(pid) for pid in reading]
    sys.exit(any(codes))


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _write(order: Order, process: int) -> None:
    if order.what == "turns":
        timeouts = Timeouts(busy_s=300)
        kit = Convokit(order.database, model="m", base_url=order.url, timeouts=timeouts)
        _in_threads(order, lambda thread: _turns(order, kit, process, thread))
    else:
        made = engine.open_engine(engine.parse_database_url(order.database)).execution_options(convokit_write=True)
        append = _append if order.what == "rows" else _append_highest
        _in_threads(order, lambda thread: _rows(order, made, f"{process}.{thread}", append))


def _in_threads(order: Order, work: Callable[[int], None]) -> None:
    def guarded(thread: int) -> None:
        try:
            work(thread)
        except Exception as error:
            tell(error=f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(order.threads)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def _turns(order: Order, kit: Convokit, process: int, thread: int) -> None:
    for number in range(order.each):
        name = f"{process}.{thread}.{number}"
        chat = kit.chat(f"c{(process + thread) % order.keys}")
        try:
            reply = chat.send(name, on_busy="wait", idempotency_key=name)
        except Exception as error:
            tell(error=f"{type(error).__name__}: {error}", name=name)
        else:
            tell(name=name, chat=chat.key, seq=reply.message.seq, text=reply.text, turn=str(reply.turn_id))


def _read(order: Order) -> None:
    """Read the conversations over and over, until told to end."""
    kit = Convokit(order.database, model="m", base_url=order.url)
    while True:
        for number in range(order.keys):
            try:
                found = kit.chat(f"c{number}").messages(limit=1000)
            except LookupError:  # its first send is still to come
                continue
            tell(read=[[each.seq, each.text] for each in found], chat=f"c{number}")
        time.sleep(0.1)


def _rows(order: Order, made: Engine, worker: str, append: Callable[[Engine, str], int]) -> None:
    for number in range(order.each):
        name = f"{worker}.{number}"
        while True:
            try:
                seq = append(made, name)
            except Conflict:
                continue
            except SQLAlchemyError as error:
                tell(error=f"{type(error).__name__}: {error.args[0] if error.args else ''}", name=name)
            else:
                tell(name=name, seq=seq)
            break


def _append(made: Engine, name: str) -> int:
    """Write a turn, its reply and a row of the application's own, all in the application's own transaction."""
    with made.begin() as connection:
        found = conversations.find_by_key(connection, "default", "c0")
        assert found is not None
        turn_id = new_id()
        call = CallRow(turn_id, 1, "sending", "{}", None, b"", "m", 1)
        question = _message(found, found.head_seq, "user", name, turn_id)
        manifest = Manifest(1, [], Profile())
        start = TurnStart(
            found, 0, found.head_seq, question, [question], call, manifest, "", 60_000_000, 1, movable=False
        )
        moved = start.write(connection).conversation
        call.state, call.ended_at, call.salt = "ok", 2, hashchain.new_salt()
        end = TurnEnd(
            conversation=moved,
            branch=0,
            turn_id=turn_id,
            at=2,
            rows=[_message(moved, question.seq, "assistant", f"echo: {name}", turn_id)],
            call=call,
            epoch=1,
            state="completed",
        )
        settled = end.write(connection)
        values = {"name": name, "seq": settled.rows[0].seq}
        connection.execute(sql("INSERT INTO app_log (seq, name) VALUES (:seq, :name)"), values)
    return settled.rows[0].seq


def _message(row: ConversationRow, parent: int | None, role: str, text: str, turn_id: Any) -> MessageRow:
    seq = row.last_seq + 1
    return MessageRow(
        seq, parent, 1, turn_id, role, "complete", 1, "none", 1, 1, content=text, salt=hashchain.new_salt()
    )


def _append_highest(made: Engine, name: str) -> int:
    """Take the position after the highest, as everybody's first attempt does, with nothing that compares and swaps."""
    with made.execution_options(convokit_write=None).begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.connection.rollback()  # as Python's own transaction control does: reads are outside
        seq = int(connection.execute(sql("SELECT coalesce(max(seq), 0) + 1 FROM app_log")).scalar_one())
        time.sleep(0.002)
        connection.execute(sql("INSERT INTO app_log (seq, name) VALUES (:seq, :name)"), {"seq": seq, "name": name})
    return seq


if __name__ == "__main__":
    main()
