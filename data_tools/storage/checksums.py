"""The CRC-32 of files, by isal where it is installed: four times as fast as zlib, the same sums."""

try:
    from isal.isal_zlib import crc32
except ModuleNotFoundError:
    from zlib import crc32

__all__ = ["crc32"]
