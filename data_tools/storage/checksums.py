"""Checksums of files: CRC-32 of a dataset's, BLAKE2b of a run's."""

import hashlib
from pathlib import Path

try:
    from isal.isal_zlib import crc32  # four times as fast as zlib
except ModuleNotFoundError:
    from zlib import crc32

__all__ = ["crc32", "digest", "digest_of"]


def digest(content: bytes) -> str:
    """BLAKE2b of some bytes, in hexadecimal digits."""
    return hashlib.blake2b(content).hexdigest()


def digest_of(path: Path) -> str:
    """BLAKE2b of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
