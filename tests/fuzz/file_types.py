"""Any bytes as a file in memory, compressed or not: its text, or an error; never a part as all.

python -m tests.fuzz.file_types -runs=1000000 CORPUS
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from unittest.mock import patch

import pyarrow as pa

from tests.fuzz import harness

with harness.guided(__name__):
    from data_tools.errors import ParseError
    from data_tools.sources import file_types, lines
    from data_tools.sources.file_types import DamagedFileError
    from data_tools.sources.lines import LineBlocks

# How the streams are made, by the ending of their files; none of them is empty.
STREAMS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda text: gzip.compress(text, 1, mtime=0),
    "bz2": lambda text: bz2.compress(text, 1),
    "xz": lambda text: lzma.compress(text, preset=0),
    "zst": lambda text: pa.compress(text, "zstd", asbytes=True),
    "lz4": lambda text: pa.compress(text, "lz4", asbytes=True),
}
# Other readers of those that have checksums. They take more than ours for padding.
PEERS = {"gz": gzip.decompress, "bz2": bz2.decompress, "xz": lzma.decompress}
DAMAGES = ["none", "cut", "flipped"]
HEAD = 6  # bytes of a case that are not its content


def case_bytes(
    content: bytes,
    ending: str = "",
    damage: str = "none",
    place: int = 0,
    members: int = 1,
    named: bool = True,
) -> bytes:
    """Make the bytes of a case: what a file holds, how it is stored, and where it is damaged."""
    stored = list(STREAMS).index(ending) if ending else len(STREAMS)
    head = [stored, DAMAGES.index(damage), members, named]
    return bytes(head) + place.to_bytes(2, "big") + content


def read(name: str, stored: bytes) -> bytes | None:
    """The text of a file as the reader of lines gives it; None where it says why it cannot."""
    with patch.object(lines, "open_input", lambda address: io.BytesIO(stored)):
        try:
            lines.first_lines(name, 1 << 20)
            return b"".join(block.lines.tobytes() for block in LineBlocks(name, 64))
        except (DamagedFileError, ParseError) as error:
            if not str(error).strip():
                raise AssertionError("an error without a reason") from error
            return None


def check(data: bytes) -> None:
    """Read the case and compare; raises AssertionError, or what reading should not raise."""
    head, content = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:]
    endings = [*STREAMS, ""]
    ending, damage = endings[head[0] % len(endings)], DAMAGES[head[1] % len(DAMAGES)]
    place = int.from_bytes(head[4:], "big")
    name = f"log.tsv.{ending}" if ending and head[3] % 2 else "log.tsv"
    if not ending:
        check_plain(name, content)
        return
    size = len(content) // (head[2] % 3 + 1) + 1
    parts = [content[start : start + size] for start in range(0, len(content), size)] or [b""]
    stored = b"".join(map(STREAMS[ending], parts))
    if damage == "none":
        check_whole(name, stored, content)
    elif damage == "cut":
        check_cut(name, ending, stored[: place % len(stored)], content)
    else:
        check_flipped(name, ending, bytearray(stored), place)


def whole_lines(text: bytes) -> bytes:
    """A text whose last line has its LF."""
    return text + b"\n" * (not text.endswith(b"\n") and text != b"")


def known(content: bytes) -> bool:
    """Whether a file's beginning tells that it is other than text."""
    return file_types.other_than_text(content[: file_types.HEAD_BYTES]) is not None


def check_plain(name: str, content: bytes) -> None:
    """A file of no known kind is its own text."""
    found = read(name, content)
    assert known(whole_lines(content)) or found == whole_lines(content)


def check_whole(name: str, stored: bytes, content: bytes) -> None:
    """A whole stream gives all of its content, unless that is known to be no text."""
    found = read(name, stored)
    whole = whole_lines(content)
    assert found == whole or (found is None and known(whole))


def check_cut(name: str, ending: str, stored: bytes, content: bytes) -> None:
    """A stream that is cut off is an error, unless whole members are left, or nothing."""
    found = read(name, stored)
    if found and known(stored):  # a few of the first bytes may be text
        assert content.startswith(found.removesuffix(b"\n")), "not the beginning of the content"
        assert ends_with_a_member(ending, stored), "a part was taken for all"


def ends_with_a_member(ending: str, stored: bytes) -> bool:
    """Whether a file is whole to another reader."""
    if ending in PEERS:
        return decompressed(ending, stored) is not None
    codec = {"zst": "zstd", "lz4": "lz4"}[ending]
    try:
        pa.CompressedInputStream(pa.BufferReader(stored), codec).read()
    except OSError:
        return False
    return True


def decompressed(ending: str, stored: bytes) -> bytes | None:
    """What another reader makes of a file; None where it cannot."""
    try:
        return PEERS[ending](stored)
    except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error):
        return None


def check_flipped(name: str, ending: str, stored: bytearray, place: int) -> None:
    """Where a bit is flipped, what is read is what another reader reads, or an error."""
    place %= 8 * len(stored)
    stored[place // 8] ^= 1 << place % 8
    found = read(name, bytes(stored))
    if found is not None and ending in PEERS and known(stored):
        text = decompressed(ending, bytes(stored))
        assert text is not None, "a stream was read that another reader calls damaged"
        assert found == whole_lines(text)


TEXT = b"1\t5\tff\n0\t\t\n" * 3
SEEDS = [
    *(case_bytes(TEXT, ending, members=2) for ending in STREAMS),
    *(case_bytes(TEXT, ending, "cut", 7, named=False) for ending in STREAMS),
    *(case_bytes(TEXT, ending, "flipped", 70) for ending in STREAMS),
    *(case_bytes(make(TEXT)) for make in STREAMS.values()),
    case_bytes(TEXT),
    case_bytes(b"PK\3\4" + TEXT),
    case_bytes(b"PAR1\0" + TEXT),
    case_bytes(b"\xff\xfe1\0"),
]

if __name__ == "__main__":
    harness.fuzz(check, SEEDS)
