"""Decompress a response body in chunks of bounded size.

A few kilobytes may unpack to gigabytes. So the decoder unpacks only what its reader asks for, within the limits of the reader.
"""

from __future__ import annotations

import zlib

from convokit.errors import BadReply, Interrupted

ACCEPTED_ENCODINGS = "gzip, deflate"
"""The value of the request header `Accept-Encoding`."""
_CHUNK_BYTES = 64 * 1024
_HEADER_BYTES = 2
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = frozenset({"gzip", "x-gzip"})
_NOT_ACCEPTED = frozenset({"br", "zstd", "compress", "x-compress"})
_FREE_BYTES = 16 * 1024 * 1024
_MAX_RATIO = 200
"""JSON and streams shrink to a fiftieth at best. Only a body made for it unpacks to more than two hundred times its size."""


class ContentDecoder:
    """Decompress a body: `feed` its bytes, then `take` what they unpack to until nothing is left.

    Raises: BadReply for an encoding that the request did not accept.
    """

    def __init__(self, encoding: str) -> None:
        self._is_gzip = encoding in _GZIP
        self._decompressor: zlib._Decompress | None = None
        self._data = b""
        self._has_more = False
        self._read_bytes = self._made_bytes = 0

    def feed(self, data: bytes) -> None:
        """Add the next bytes of the body."""
        self._data += data
        self._read_bytes += len(data)

    def take(self) -> bytes:
        """Return at most 64 KiB of the decompressed body; empty when more bytes of the body are needed.

        Raises: Interrupted for damaged data, BadReply for a body that unpacks to hundreds of times its size.
        """
        made = b""
        while not made and (self._data or self._has_more):
            if self._decompressor is None:
                if len(self._data) < _HEADER_BYTES:
                    return b""
                if self._made_bytes and not self._data.startswith(_GZIP_MAGIC):
                    self._data = b""  # padding behind the last member
                    return b""
                self._decompressor = zlib.decompressobj(self._find_window_bits())
            made = self._decompress(self._decompressor)
        self._made_bytes += len(made)
        if self._made_bytes > max(_FREE_BYTES, _MAX_RATIO * self._read_bytes):
            raise BadReply(f"the compressed answer unpacks to more than {_MAX_RATIO} times its size", status=200)
        return made

    def _decompress(self, decompressor: zlib._Decompress) -> bytes:
        try:
            made = decompressor.decompress(self._data, _CHUNK_BYTES)
        except zlib.error as error:
            raise Interrupted(f"the compressed answer is damaged ({error})") from None
        self._data = decompressor.unconsumed_tail
        self._has_more = len(made) == _CHUNK_BYTES
        if decompressor.eof and not self._has_more:
            # A gzip body may have several members (RFC 1952, section 2.2): some proxies compress each event by itself.
            self._data = decompressor.unused_data if self._is_gzip else b""
            self._decompressor = None if self._is_gzip else decompressor
        return made

    def _find_window_bits(self) -> int:
        if self._is_gzip:
            return zlib.MAX_WBITS | 16
        # `deflate` has a header by RFC 9110, but some servers leave it out (RFC 1950, section 2.2, describes the header).
        first, second = self._data[:_HEADER_BYTES]
        has_header = first & 0x0F == zlib.DEFLATED and (first << 8 | second) % 31 == 0
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def find_decoder(content_encoding: str) -> ContentDecoder | None:
    """Return the decoder for a header `Content-Encoding`; None for a body that is not compressed.

    Raises: BadReply for an encoding that the request did not accept.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    compressed = [name for name in names if name == "deflate" or name in _GZIP or name in _NOT_ACCEPTED]
    if not compressed:  # "identity", or a name of another kind: some servers send the character set here
        return None
    if len(compressed) > 1 or compressed[0] in _NOT_ACCEPTED:
        raise BadReply(f"the answer is compressed as {content_encoding[:60]!r}; accepted: {ACCEPTED_ENCODINGS}")
    return ContentDecoder(compressed[0])
