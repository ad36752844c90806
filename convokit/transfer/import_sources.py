"""List the files of an import: of paths, folders and ZIP archives.

In a folder or an archive, only regular files are read. A link could lead out of the folder, to a file that the sender of the
export may not see. Nothing is unpacked to disk.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from convokit.errors import SettingsError, TransferFailed
from convokit.transfer.import_file import READ_ERRORS, ImportFile, make_read_error
from convokit.transfer.models import ImportPath, ImportSource

IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
_IMAGE_ID = re.compile(r"(file[-_][A-Za-z0-9]+)", re.ASCII)
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
# Text rarely shrinks to less than a hundredth. A small archive may expand to this size without harm.
_MAX_EXPANSION = 200
_MAX_EXPANDED_BYTES = 64 * 1024 * 1024
Found = TypeVar("Found")
Patterns = tuple[str, ...]
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ImportSources:
    """The files of an import. Close them after use."""

    def __init__(self, source: ImportSource) -> None:
        self._paths: list[Path] = []
        self._file: IO[Any] | None = None
        self._archives: list[zipfile.ZipFile] = []
        if isinstance(source, str | Path):
            self._paths = [Path(source)]
        elif isinstance(source, Sequence) and all(isinstance(each, str | Path) for each in source):
            self._paths = [Path(each) for each in source]
            if not self._paths:
                raise SettingsError("source", "names no file")
        elif not isinstance(source, Sequence) and hasattr(source, "read"):
            self._file = source
        else:
            raise SettingsError("source", f"must be a path, paths or a text file, not {type(source).__name__}")

    def list_files(self, patterns: Patterns) -> list[ImportFile]:
        """Return the files. `patterns` match those that are read in a folder or archive. Raises: TransferFailed."""
        if self._file is not None:
            return self._list_given(self._file, patterns)
        return [file for path in self._paths for file in self._list_path(path, patterns)]

    def _list_given(self, file: IO[Any], patterns: Patterns) -> list[ImportFile]:
        name = str(getattr(file, "name", "the file given"))
        try:
            if _is_archive(file):
                return self._list_archive(name, file, patterns)
        except READ_ERRORS as error:
            raise make_read_error(name, error) from None
        return [ImportFile(name, lambda: file, _find_no_image, owned=False)]

    def _list_path(self, path: Path, patterns: Patterns) -> list[ImportFile]:
        try:
            if path.is_dir():
                return _list_folder(path, patterns)
            size = path.stat().st_size
            # A pipe can be read only once, so it is not looked at here.
            if path.is_file():
                with path.open("rb") as file:
                    is_archive = _is_archive(file)
                if is_archive:
                    return self._list_archive(str(path), path, patterns)
        except READ_ERRORS as error:
            raise make_read_error(str(path), error) from None
        return [ImportFile(str(path), partial(path.open, "rb"), _ImageFolder(path.parent).read, size=size or None)]

    def _list_archive(self, name: str, file: ImportPath | IO[Any], patterns: Patterns) -> list[ImportFile]:
        archive = zipfile.ZipFile(file)
        self._archives.append(archive)
        members = [each for each in archive.infolist() if _is_plain_member(each)]
        found = sorted(
            (each for each in members if _matches(_base_name(each), patterns)), key=lambda each: each.filename
        )
        if not found:
            raise TransferFailed(name, f"cannot be read (the ZIP archive has no file {' or '.join(patterns)})")
        for each in found:
            _check_member(name, each)
        images = _ImageArchive(archive, members)
        return [
            ImportFile(f"{name}/{each.filename}", partial(archive.open, each), images.read, size=each.file_size)
            for each in found
        ]

    def close(self) -> None:
        """Close the archives."""
        for archive in self._archives:
            archive.close()


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file, and no link, pipe or device. Raises: OSError."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():  # Windows has no O_NOFOLLOW
        raise OSError("is a link")
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("is not a regular file")
    return os.fdopen(handle, "rb")


def _is_archive(file: IO[Any]) -> bool:
    """Return whether an open file is a ZIP archive. Its position does not change."""
    if isinstance(file, io.TextIOBase) or not file.seekable():
        return False
    start = file.tell()
    head = file.read(4)
    file.seek(start)
    return head in _ZIP_MAGIC


def _list_folder(folder: Path, patterns: Patterns) -> list[ImportFile]:
    images = _ImageFolder(folder)
    found = [path for path in _walk(folder) if _matches(path.name, patterns)]
    if not found:
        raise TransferFailed(str(folder), f"cannot be read (the folder has no file {' or '.join(patterns)})")
    return [ImportFile(str(path), partial(open_regular, path), images.read, size=path.stat().st_size) for path in found]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the regular files of a folder and of its direct subfolders. Links are not followed."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    yield from (Path(entry.path) for entry in listed if entry.is_file(follow_symlinks=False))
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            inner: list[os.DirEntry[str]] = []
            # A subfolder that must not be read belongs to somebody else.
            with contextlib.suppress(OSError), os.scandir(entry.path) as below:
                inner = sorted(below, key=lambda each: each.name)
            yield from (Path(each.path) for each in inner if each.is_file(follow_symlinks=False))


def _matches(name: str, patterns: Patterns) -> bool:
    return name[0] != "." and any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


class _ImageFolder:
    """Reads the images of a folder by the file id at the start of their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] | None = None

    def read(self, image_id: str, limit: int) -> tuple[str, bytes] | None:
        """Return the suffix and bytes of an image; None if it is missing or larger than `limit`."""
        try:
            if self._paths is None:
                self._paths = {}
                self._paths = _index_images((path.name, path) for path in _walk(self._folder))
            path = self._paths.get(image_id)
            if path is None:
                return None
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size > limit:
                    return None
                return _read_image(path.name, file, limit)
        except OSError:
            return None


class _ImageArchive:
    """Reads the images of a ZIP archive by the file id at the start of their names."""

    def __init__(self, archive: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo]) -> None:
        self._archive = archive
        self._members = _index_images((_base_name(each), each) for each in members)

    def read(self, image_id: str, limit: int) -> tuple[str, bytes] | None:
        """Return the suffix and bytes of an image; None if it is missing, damaged or larger than `limit`."""
        member = self._members.get(image_id)
        if member is None or member.file_size > limit or member.compress_type not in _COMPRESSIONS:
            return None
        try:
            with self._archive.open(member) as file:
                return _read_image(member.filename, file, limit)
        except READ_ERRORS:
            return None


def _index_images(named: Iterable[tuple[str, Found]]) -> dict[str, Found]:
    images: dict[str, Found] = {}
    for name, each in named:
        image_id = _IMAGE_ID.match(name)
        if image_id is not None and _suffix(name) in IMAGE_TYPES:
            images.setdefault(image_id[1], each)
    return images


def _read_image(name: str, file: IO[bytes], limit: int) -> tuple[str, bytes] | None:
    # A file may grow after its size was checked, and the size of /proc files is 0.
    data = file.read(limit + 1)
    return None if len(data) > limit else (_suffix(name), data)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _find_no_image(_image_id: str, _limit: int) -> None:
    return None


def _base_name(member: zipfile.ZipInfo) -> str:
    return PurePosixPath(member.filename).name


def _is_plain_member(member: zipfile.ZipInfo) -> bool:
    """Return whether a member is a regular file with a path below the archive's root."""
    path, mode = PurePosixPath(member.filename), member.external_attr >> 16
    # A forged archive may have members without a name, or with the name ".".
    is_inside = path.name != "" and not path.is_absolute() and ".." not in path.parts
    return is_inside and not member.is_dir() and stat.S_IFMT(mode) in (0, stat.S_IFREG)


def _check_member(archive: str, member: zipfile.ZipInfo) -> None:
    name = f"{archive}/{member.filename}"
    if member.compress_type not in _COMPRESSIONS:
        raise TransferFailed(name, "cannot be read (its ZIP compression is not deflate): pack it again")
    if member.flag_bits & 1:
        raise TransferFailed(name, "cannot be read (it has a password): unpack it first")
    if member.file_size > max(_MAX_EXPANDED_BYTES, _MAX_EXPANSION * member.compress_size):
        problem = f"it would expand from {member.compress_size:,} to {member.file_size:,} bytes"
        raise TransferFailed(name, f"cannot be read ({problem}): unpack it first if you trust it")
