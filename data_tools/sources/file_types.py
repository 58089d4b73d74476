"""Tell by its first bytes what a file is: text, compressed text, Parquet or something else."""

import bz2
import codecs
import io
import lzma
from collections.abc import Callable, Iterator
from functools import partial
from gzip import BadGzipFile
from typing import IO, Any, NamedTuple

import pyarrow as pa

HEAD_BYTES = 512  # tell what a file is; a tar has its magic bytes near the end
INFLATE_BYTES = 1 << 20  # of text at a time; as many before a damaged place may be lost
# The first bytes of compressed streams, and the endings of their file names.
_MAGIC = {
    "gzip": (b"\x1f\x8b",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60))),
    "bz2": tuple(b"BZh%d" % level for level in range(1, 10)),
    "xz": (b"\xfd7zXZ\0",),
    "lz4": (b"\x04\x22\x4d\x18",),
}
_ENDINGS = {
    ".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"
}  # fmt: skip
_PARQUET = b"PAR1"
_AS_TABLE = "convert it to Parquet or CSV"
# The position of the magic bytes, these bytes, what the file is, and what to do.
_OTHERS = (
    (0, b"PK\x03\x04", "a zip archive, as an Excel workbook is", "unpack it, or save it as CSV"),
    (0, b"PK\x05\x06", "an empty zip archive", "check whether its download failed"),
    (257, b"ustar", "a tar archive", "unpack it with tar -xf and name the files in it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (0, b"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (0, b"\x1f\x9d", "compressed by compress (.Z)", "decompress it with gunzip"),
    (0, b"\x02\x21\x4c\x18", "an lz4 stream of the old format", "decompress it with lz4 -d"),
    (0, b"LZIP", "compressed by lzip", "decompress it with lzip -d"),
    (0, b"\xff\x06\0\0sNaPpY", "compressed by snappy", "decompress it"),
    (0, b"PARE", "an encrypted Parquet file", "write it without encryption"),
    (0, b"ARROW1\0\0", "an Arrow IPC (Feather) file", _AS_TABLE),
    (0, b"FEA1", "a Feather file", _AS_TABLE),
    (0, b"\xff\xff\xff\xff", "a stream of Arrow IPC", _AS_TABLE),
    (0, b"ORC", "an ORC file", _AS_TABLE),
    (0, b"Obj\x01", "an Avro file", _AS_TABLE),
    (0, b"SQLite format 3\0", "an SQLite database", "export its table as CSV"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "save its sheet as CSV"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _AS_TABLE),
    (0, b"\x93NUMPY", "a NumPy array", _AS_TABLE),
    (0, b"\x80\x04\x95", "a Python pickle", _AS_TABLE),
    (0, b"\x80\x05\x95", "a Python pickle", _AS_TABLE),
    (0, codecs.BOM_UTF32_LE, "text in UTF-32", "convert it with iconv -f UTF-32 -t UTF-8"),
    (0, codecs.BOM_UTF32_BE, "text in UTF-32", "convert it with iconv -f UTF-32 -t UTF-8"),
    (0, codecs.BOM_UTF16_LE, "text in UTF-16", "convert it with iconv -f UTF-16 -t UTF-8"),
    (0, codecs.BOM_UTF16_BE, "text in UTF-16", "convert it with iconv -f UTF-16 -t UTF-8"),
)


class DamagedFileError(Exception):
    """The file's compressed stream is cut off or corrupt."""


class OpenText(NamedTuple):
    """A file that is open for reading."""

    text: IO[bytes]  # what it holds
    raw: IO[bytes]  # its own bytes; its `tell` shows the progress
    errors: tuple[type[Exception], ...]  # raised by `text` where the stream is damaged


def without_ending(name: str) -> str:
    """A file's name in lower case, without the ending of a compressed stream."""
    name = name.lower()
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending)


def is_parquet(head: bytes) -> bool:
    """Whether a file that begins with `head` is Parquet."""
    return head.startswith(_PARQUET) and not _is_text(head)


def other_than_text(head: bytes) -> str | None:
    """What a file that begins with `head` is, and what to do; None if it may be text."""
    if _is_text(head):
        return None
    if is_parquet(head):
        return 'Parquet; it is read as such with format "auto" or "parquet"'
    stream = _stream(head)
    if stream:
        return f"compressed by {stream}; decompress it"
    for place, magic, what, remedy in _OTHERS:
        if head.startswith(magic, place):
            return f"{what}; {remedy}"
    return None


def _is_text(head: bytes) -> bool:
    """Whether the beginning of a file is text; its last character may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(character >= " " or character in "\t\n\r" for character in text)


def _stream(head: bytes) -> str | None:
    """The compression of a stream that begins like this."""
    found = (name for name, begins in _MAGIC.items() if head.startswith(begins))
    return None if _is_text(head) else next(found, None)


def compression(raw: IO[bytes], name: str) -> str | None:
    """The compression of a file, or None; the file is left at its beginning.

    Raises
    ------
    DamagedFileError
        Its name ends like that of a compressed file, but it is neither compressed nor text.
    """
    head = raw.read(HEAD_BYTES)
    raw.seek(0)
    named = name.lower().removeprefix(without_ending(name))
    if named and not head:
        raise DamagedFileError(f"the {named} file has 0 bytes")
    stream = _stream(head)
    if named and not _is_text(head) and not other_than_text(head):
        raise DamagedFileError(f"the {named} file does not begin as one")
    return stream


def inflated(raw: IO[bytes], stream: str | None, name: str) -> OpenText:
    """The text of a file; gzip is inflated ahead by a thread of its own.

    Streams that follow one another in the file make one text. Other bytes after them are an error.

    Raises
    ------
    ModuleNotFoundError
        Gzip needs isal, which is not installed.
    """
    if stream is None:
        return OpenText(raw, raw, ())
    if stream in _DECOMPRESSORS:
        chunks: Any = _Chunks(_inflated_chunks(raw, _DECOMPRESSORS[stream]))
        return OpenText(chunks, raw, (EOFError, OSError, lzma.LZMAError))
    if stream != "gzip":
        text = pa.CompressedInputStream(pa.PythonFile(raw, "r"), stream)
        return OpenText(text, raw, (OSError, pa.ArrowException))
    try:
        from isal import igzip_threaded, isal_zlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs isal: pip install 'robe-numba[data]', or decompress it with gunzip",
            name="isal",
        ) from error
    text = igzip_threaded.open(raw, "rb", block_size=INFLATE_BYTES)
    return OpenText(text, raw, (EOFError, BadGzipFile, isal_zlib.error))  # type: ignore[arg-type]


# Python's file classes ignore whatever follows a stream, and Arrow's bz2 fails at an empty stream.
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "bz2": bz2.BZ2Decompressor,
    "xz": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ),
}


def _inflated_chunks(raw: IO[bytes], decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """The text of streams one after another."""
    stream = None
    while packed := raw.read(INFLATE_BYTES):
        while packed:
            if stream is None:
                packed = packed.lstrip(b"\0")  # zeros may pad a stream
                stream = decompressor() if packed else None
            if stream is not None:
                yield stream.decompress(packed, INFLATE_BYTES)
                while not (stream.eof or stream.needs_input):
                    yield stream.decompress(b"", INFLATE_BYTES)
                packed = stream.unused_data
                stream = None if stream.eof else stream
    if stream is not None:
        raise EOFError("the stream ends early")


class _Chunks(io.RawIOBase):
    """A file of consecutive chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Copy what is left of a chunk, at most; returns 0 at the end."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
