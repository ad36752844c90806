"""Tests of decompressing a response body in chunks of bounded size."""

from __future__ import annotations

import collections
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from convokit.errors import BadReply, Interrupted
from convokit.wire.content_decoder import find_decoder

TEXT = ("data: 日本語 and some words\n\n" * 9_000).encode()


def compress_raw(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def decode(encoding: str, data: bytes, step: int) -> tuple[bytes, int]:
    """Return the decoded body and the size of its largest chunk, for a body that comes `step` bytes at a time."""
    decoder = find_decoder(encoding)
    assert decoder is not None
    chunks = []
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        while chunk := decoder.take():
            chunks.append(chunk)
    return b"".join(chunks), max(map(len, chunks))


@pytest.mark.parametrize("step", [1, 1_000, 10**9])
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("X-GZip", gzip.compress),
        ("identity, gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", compress_raw),
    ],
)
def test_a_body_is_decompressed(encoding: str, compress: Callable[[bytes], bytes], step: int) -> None:
    """Every accepted encoding gives the body, in chunks of at most 64 KiB, however its bytes arrive."""
    found, largest = decode(encoding, compress(TEXT), step)
    assert found == TEXT
    assert largest <= 64 * 1024


@pytest.mark.parametrize("encoding", ["", "identity", "utf-8"])
def test_a_body_without_compression_has_no_decoder(encoding: str) -> None:
    assert find_decoder(encoding) is None


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, br"])
def test_an_encoding_that_was_not_accepted_is_refused(encoding: str) -> None:
    with pytest.raises(BadReply, match="accepted: gzip, deflate"):
        find_decoder(encoding)


def test_damaged_data_is_an_interrupted_answer() -> None:
    with pytest.raises(Interrupted, match="damaged"):
        decode("gzip", b"data: no gzip at all", 4)


def test_a_bomb_is_unpacked_in_little_memory_and_given_up() -> None:
    """A megabyte that would unpack to a gigabyte takes a fraction of a megabyte, and ends at two hundred times its size."""
    bomb = gzip.compress(b": ping\n\n" * 2_500_000)
    decoder = find_decoder("gzip")
    assert decoder is not None
    decoder.feed(bomb)
    tracemalloc.start()
    try:
        assert len(decoder.take()) == 64 * 1024
        assert tracemalloc.get_traced_memory()[1] < 512 * 1024
    finally:
        tracemalloc.stop()
    with pytest.raises(BadReply, match="200 times"):
        collections.deque(iter(decoder.take, b""), maxlen=0)


@pytest.mark.parametrize("step", [1, 7, 1_000, 10**9])
def test_members_of_a_gzip_body_are_joined(step: int) -> None:
    """Some proxies compress each event by itself. Padding behind the last member is no member."""
    members = [gzip.compress(text.encode()) for text in ("data: 一\n\n", "", "data: 二\n\n", "data: [DONE]\n\n")]
    body = b"".join([*members, *[gzip.compress(b"")] * 2_000, b"\0" * 64])
    assert decode("gzip", body, step)[0].decode() == "data: 一\n\ndata: 二\n\ndata: [DONE]\n\n"
