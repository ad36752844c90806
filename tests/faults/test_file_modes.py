"""Test that files of convokit are readable for their owner only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE
from typing import Any

import pytest

from convokit import Convokit
from tests.support.faces import Face
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
KEY = "sixteen bytes or more"


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """Let new files be readable for everyone, unless they ask for another mode."""
    previous = os.umask(0)
    yield
    os.umask(previous)


def _modes(folder: Path) -> dict[str, str]:
    return {each.name: f"{S_IMODE(each.stat().st_mode):o}" for each in folder.iterdir() if each.is_file()}


@pytest.mark.parametrize("api", ["sync", "async"])
@pytest.mark.once
def test_new_files_are_private(api: str, server: LoopbackServer, tmp_path: Path) -> None:
    """The database, its log, exports and checkpoints get mode 0600."""
    face = Face(api)
    kit = face.kit(f"sqlite:///{tmp_path}/chat.db", model="m", base_url=server.url)
    face.settle(kit.migrate())
    face.settle(kit.chat("k").send("秘密"))
    for form in ("jsonl", "openai", "markdown"):
        face.settle(kit.export(tmp_path / f"export.{form}", format=form))
    face.settle(kit.checkpoint(key=KEY, to=tmp_path / "heads.jsonl"))
    found = _modes(tmp_path)
    face.close()
    assert set(found) >= {"chat.db", "chat.db-wal", "chat.db-shm", "export.jsonl", "heads.jsonl"}
    assert set(found.values()) == {"600"}


@pytest.mark.once
def test_existing_files_keep_their_mode(server: LoopbackServer, tmp_path: Path) -> None:
    """One `chmod` lasts, also for the log of a database and for a file that is replaced."""
    for name in ("chat.db", "export.jsonl", "heads.jsonl"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o660)
    with Convokit(tmp_path / "chat.db", model="m", base_url=server.url) as kit:
        kit.migrate()
        kit.chat("k").send("hi")
        kit.export(tmp_path / "export.jsonl")
        kit.checkpoint(key=KEY, to=tmp_path / "heads.jsonl")
        assert set(_modes(tmp_path).values()) == {"660"}
        assert all((tmp_path / name).stat().st_size for name in ("export.jsonl", "heads.jsonl"))


@pytest.mark.once
def test_files_are_private_while_they_are_written(
    server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode is part of the creation. No later `chmod` leaves a moment in which others can open the file."""
    created: dict[str, int] = {}
    original = os.open

    def observe(path: Any, flags: int, mode: int = 0o777, **given: Any) -> int:
        descriptor = original(path, flags, mode, **given)
        if flags & os.O_CREAT:
            created[os.path.basename(path).split(".")[0] or "temporary"] = S_IMODE(os.fstat(descriptor).st_mode)
            assert flags & os.O_EXCL
        return descriptor

    monkeypatch.setattr(os, "open", observe)
    with Convokit(tmp_path / "chat.db", model="m", base_url=server.url) as kit:
        kit.migrate()
        kit.export(tmp_path / "export.jsonl")
        kit.checkpoint(key=KEY, to=tmp_path / "heads.jsonl")
    assert created == {"chat": 0o600, "temporary": 0o600}


@pytest.mark.once
def test_a_link_to_a_missing_file_makes_a_private_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    with Convokit(tmp_path / "link.db", model="m") as kit:
        kit.migrate()
    assert _modes(tmp_path)["real.db"] == "600"
