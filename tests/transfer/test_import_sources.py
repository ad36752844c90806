"""Sources of an import: folders, ZIP archives, several files. No link leads out of a folder."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convokit import Limits
from convokit.errors import SettingsError, TransferFailed
from convokit.transfer import import_sources
from tests.support.chatgpt import PICTURE, PICTURE_NAME, conversation, node, picture, tree
from tests.support.faces import Face

SECRET = b"OPENAI_API_KEY=sk-secret"


def write_parts(folder: Path, count: int = 3) -> list[Path]:
    """Write the conversations of an export as ChatGPT does today: in numbered files."""
    paths = []
    for number in range(count):
        value = conversation(f"6632a1b4-{number:04}-8000-a000-000000000000", f"題{number}")
        paths.append(folder / f"conversations-{number:03}.json")
        paths[-1].write_text(json.dumps([value], indent=number), "utf-8")
    return paths


def pack(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a ZIP archive."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def list_images(face: Face, kit: Any) -> list[str]:
    """Return the URLs of all images in the first conversation."""
    chat = kit.chat(id=face.settle(kit.conversations()).items[0].id)
    parts = [part for each in face.settle(chat.messages()) if isinstance(each.content, list) for part in each.content]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("form", ["ZIP", "open ZIP", "folder", "files"])
def test_an_export_in_parts_is_imported_as_a_whole(face: Face, kit: Any, tmp_path: Path, form: str) -> None:
    """A repeated import writes nothing. The images are found in every form."""
    (tmp_path / "export" / "user-1").mkdir(parents=True)
    paths = write_parts(tmp_path / "export")
    (tmp_path / "export" / "user-1" / PICTURE_NAME).write_bytes(PICTURE)
    (tmp_path / "export" / "user.json").write_text("{}")
    members = {f"x/{path.name}": path.read_bytes() for path in paths}
    archive = pack(tmp_path / "export.zip", {**members, "x/user.json": b"{}", f"x/user-1/{PICTURE_NAME}": PICTURE})
    sources: dict[str, Callable[[], Any]] = {
        "ZIP": lambda: str(archive),
        "open ZIP": lambda: io.BytesIO(archive.read_bytes()),
        "folder": lambda: tmp_path / "export",
        "files": lambda: paths,
    }
    seen: list[tuple[int, int | None]] = []
    found = face.settle(
        kit.import_(sources[form](), format="chatgpt", progress=lambda done, whole: seen.append((done, whole)))
    )
    assert (found.conversations, found.messages) == (3, 33)
    assert len(list_images(face, kit)) == 1
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in paths)
    assert face.settle(kit.import_(sources[form](), format="chatgpt")).unchanged == 3


@pytest.mark.once
@pytest.mark.parametrize("place", ["image", "subfolder", "conversations", "pipe"])
def test_no_link_leads_out_of_a_folder(face: Face, kit: Any, tmp_path: Path, place: str) -> None:
    """A link to a file or folder elsewhere is no part of an export, and a pipe is not waited for."""
    secret, folder = tmp_path / "secret", tmp_path / "export"
    secret.mkdir()
    folder.mkdir()
    (secret / PICTURE_NAME).write_bytes(SECRET)
    (secret / "conversations-1.json").write_text(json.dumps([conversation()]), "utf-8")
    if place == "conversations":
        (folder / "conversations-1.json").symlink_to(secret / "conversations-1.json")
        with pytest.raises(TransferFailed, match=r"the folder has no file conversations\*.json"):
            face.settle(kit.import_(folder, format="chatgpt"))
        return
    if place == "image":
        (folder / PICTURE_NAME).symlink_to(secret / PICTURE_NAME)
    elif place == "subfolder":
        (folder / "user-1").symlink_to(secret)
    else:
        os.mkfifo(folder / PICTURE_NAME)
    (folder / "conversations.json").write_text(json.dumps([conversation()]), "utf-8")
    for source in (folder, folder / "conversations.json"):
        found = face.settle(kit.import_(source, format="chatgpt"))
        assert found.left_out.get("images", 2) == 2
    assert list_images(face, kit) == []


@pytest.mark.once
def test_a_link_that_is_put_in_place_later_is_not_followed(
    face: Face, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is that of the open file, not only that of its name."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "conversations.json").write_text(json.dumps([conversation()]), "utf-8")
    (tmp_path / PICTURE_NAME).write_bytes(PICTURE)
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    walk = import_sources._walk

    def replace(folder: Path) -> list[Path]:
        found = list(walk(folder))
        (tmp_path / PICTURE_NAME).unlink()
        (tmp_path / PICTURE_NAME).symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(import_sources, "_walk", replace)
    face.settle(kit.import_(tmp_path / "conversations.json", format="chatgpt"))
    assert list_images(face, kit) == []


@pytest.mark.once
@pytest.mark.parametrize("form", ["folder", "ZIP"])
def test_an_image_over_the_limit_is_left_out(face: Face, database: str, tmp_path: Path, form: str) -> None:
    """The size of the file is checked, and the size of what is read."""
    kit = face.kit(database, model="m", limits=Limits(attachment_bytes=100))
    name = "file-Big1.png"
    pictures = [picture(f"sediment://file-{each}") for each in ("Big1", "Small1")]
    value = {"id": "x", "mapping": tree(node("a", None, "user", {"parts": pictures}))}
    members = {
        "conversations.json": json.dumps(value).encode(),
        name: b"x" * 101,
        "file-Small1.png": b"x" * 100,
    }
    source = pack(tmp_path / "a.zip", members)
    if form == "folder":
        source = tmp_path / "export"
        source.mkdir()
        for each, data in members.items():
            (source / each).write_bytes(data)
    assert face.settle(kit.import_(source, format="chatgpt")).left_out == {"images": 1}
    assert len(list_images(face, kit)) == 1
    assert import_sources._read_image(name, io.BytesIO(b"x" * 101), 100) is None


@pytest.mark.once
def test_a_zip_bomb_is_refused_before_it_is_expanded(face: Face, kit: Any, tmp_path: Path) -> None:
    bomb = pack(tmp_path / "a.zip", {"conversations.json": b" " * 70_000_000})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(
        TransferFailed, match=r"a.zip/conversations.json: cannot be read \(it would expand from .* to 70,000,000"
    ):
        face.settle(kit.import_(bomb, format="chatgpt"))


@pytest.mark.once
@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"user.json": b"{}"}, r"the ZIP archive has no file conversations\*.json"),
        ({"../conversations.json": b"[]"}, "has no file"),
        ({"/conversations.json": b"[]"}, "has no file"),
        ({"__MACOSX/._conversations.json": b"[]"}, "has no file"),
        ({}, "has no file"),
    ],
)
def test_only_files_below_the_root_of_an_archive_are_read(
    face: Face, kit: Any, tmp_path: Path, members: dict[str, bytes], match: str
) -> None:
    with pytest.raises(TransferFailed, match=match):
        face.settle(kit.import_(pack(tmp_path / "a.zip", members), format="chatgpt"))


@pytest.mark.once
def test_a_damaged_archive_is_a_typed_error(face: Face, kit: Any, tmp_path: Path) -> None:
    """Bytes that were changed, a member with a password, an unusual compression, and a link."""
    good = pack(tmp_path / "a.zip", {"conversations.json": json.dumps([conversation()]).encode()})
    data = bytearray(good.read_bytes())
    changed = bytes(data[:200]) + bytes([data[200] ^ 255]) + bytes(data[201:])
    locked = bytes(data).replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    assert locked != bytes(data)
    for spoiled in (changed, locked, bytes(data[:-10]), b"PK\x03\x04"):
        (tmp_path / "b.zip").write_bytes(spoiled)
        with pytest.raises(TransferFailed, match=r"b\.zip"):
            face.settle(kit.import_(tmp_path / "b.zip", format="chatgpt"))
    with pytest.raises(TransferFailed, match="its ZIP compression is not deflate"):
        face.settle(
            kit.import_(pack(tmp_path / "c.zip", {"conversations.json": b"[]"}, zipfile.ZIP_BZIP2), format="chatgpt")
        )
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        link = zipfile.ZipInfo("conversations.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(TransferFailed, match="has no file"):
        face.settle(kit.import_(tmp_path / "d.zip", format="chatgpt"))
    assert len(face.settle(kit.conversations())) == 0


@pytest.mark.once
def test_a_source_that_is_nothing_of_these_raises(face: Face, kit: Any) -> None:
    for source in (7, None, [], [7], b"x"):
        with pytest.raises(SettingsError, match="source: "):
            face.settle(kit.import_(source))


def test_a_folder_of_exports_is_imported(face: Face, kit: Any, tmp_path: Path) -> None:
    """Every format reads the files of a folder, and a bad file is named."""
    face.settle(kit.chat("k").send("hello"))
    face.settle(kit.export(tmp_path / "a.jsonl"))
    assert face.settle(kit.tenant("rival").import_(tmp_path, prefix="")).conversations == 1
    assert face.settle(kit.tenant("third").import_(tmp_path, trusted=True)).rechained == 1
    (tmp_path / "b.jsonl").write_text("{")
    found = face.settle(kit.tenant("fourth").import_(tmp_path, prefix="", on_error="skip"))
    assert (found.conversations, found.skipped, found.problems[0].file) == (1, 1, str(tmp_path / "b.jsonl"))
