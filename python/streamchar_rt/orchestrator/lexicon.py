"""The pronunciation lexicon: a compressed, sorted word list that is searched in place.

File: an 8-byte magic, the little-endian uint32 number of words, and an LZMA stream of

    uint32 number of blocks, uint32 offset of each block, blocks.

A block holds :data:`BLOCK` words in byte order, front-coded. A word is ``prefix`` (one byte: how many
letters it shares with the word before, 0 for the first of a block), its other letters (ASCII), ``shared`` (one byte,
0x80 + number of phones shared with the word before) and its other phones (one byte each, 0xA0 + code, see
:func:`encode_phone`). Letters are below 0x80, so that the fields need no separators. Homographs have a
second entry ``word/v`` for the verb.
"""

from __future__ import annotations

import bisect
import functools
import lzma
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from streamchar_rt.errors import BundleError
from streamchar_rt.orchestrator.units import FIRST_PHONE, NUM_UNITS, PHONES, VOWELS

MAGIC = b"SCLEX\x00\x00\x01"
BLOCK = 64
_SHARED, _PHONE = 0x80, 0xA0
_MAX_SHARED = _PHONE - _SHARED - 1


class PhoneToken(NamedTuple):
    unit: int  # transcript unit
    stress: int  # 0 or 1; always 0 for consonants


_STRESSED = [unit for unit in range(FIRST_PHONE, NUM_UNITS) if PHONES[unit - FIRST_PHONE] in VOWELS]
# code → phone: the phones unstressed, then the vowels stressed
PHONE_CODES: tuple[PhoneToken, ...] = tuple(
    [PhoneToken(unit, 0) for unit in range(FIRST_PHONE, NUM_UNITS)] + [PhoneToken(unit, 1) for unit in _STRESSED]
)
_CODE_OF = {phone: code for code, phone in enumerate(PHONE_CODES)}


def encode_phone(phone: PhoneToken) -> int:
    """Code of a phone, 0 … 55: the 40 phones without stress, then the 16 vowels with it."""
    return _CODE_OF[phone]


def write_lexicon(path: str | os.PathLike[str], words: Mapping[str, tuple[PhoneToken, ...]]) -> int:
    """Write a lexicon file; returns its size in bytes. Words are lower-case ASCII, verbs of homographs ``word/v``."""
    blocks, offsets = bytearray(), []
    previous, previous_phones = b"", b""
    for index, word in enumerate(sorted(words)):
        letters = word.encode("ascii")
        phones = bytes(_PHONE + encode_phone(p) for p in words[word])
        if index % BLOCK == 0:
            offsets.append(len(blocks))
            previous, previous_phones = b"", b""
        prefix = len(os.path.commonprefix([previous, letters]))
        shared = min(len(os.path.commonprefix([previous_phones, phones])), _MAX_SHARED)
        blocks += bytes([prefix]) + letters[prefix:] + bytes([_SHARED + shared]) + phones[shared:]
        previous, previous_phones = letters, phones
    body = struct.pack(f"<I{len(offsets)}I", len(offsets), *offsets) + bytes(blocks)
    packed = lzma.compress(
        body,
        format=lzma.FORMAT_XZ,
        check=lzma.CHECK_CRC32,
        filters=[{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}],
    )
    data = MAGIC + struct.pack("<I", len(words)) + packed
    Path(path).write_bytes(data)
    return len(data)


class Lexicon:
    """Read-only word → phones; safe to share between threads and sessions."""

    def __init__(self, body: bytes, count: int) -> None:
        (blocks,) = struct.unpack_from("<I", body)
        offsets = struct.unpack_from(f"<{blocks}I", body, 4)
        self._blocks = body[4 + 4 * blocks :]
        self._offsets = (*offsets, len(self._blocks))
        self._firsts = [self._first_word(offset) for offset in offsets]
        self._count = count
        self._block = functools.lru_cache(maxsize=64)(self._decode_block)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Lexicon:
        """Read a lexicon file; BundleError if it is missing or damaged."""
        try:
            data = Path(path).read_bytes()
            if data[:8] != MAGIC:
                raise ValueError("it does not begin with the lexicon's magic bytes")
            return cls(lzma.decompress(data[12:]), struct.unpack_from("<I", data, 8)[0])
        except (OSError, ValueError, EOFError, struct.error, lzma.LZMAError) as error:
            raise BundleError(f"the lexicon {os.fspath(path)} cannot be read: {error}") from error

    def __len__(self) -> int:
        return self._count

    def __contains__(self, word: str) -> bool:
        return self.get(word) is not None

    def get(self, word: str) -> tuple[PhoneToken, ...] | None:
        """Phones of a lower-case word, None if the lexicon does not have it."""
        if not word or not word.isascii():
            return None
        index = bisect.bisect_right(self._firsts, word.encode()) - 1
        codes = self._block(index).get(word) if index >= 0 else None
        return None if codes is None else tuple(PHONE_CODES[code - _PHONE] for code in codes)

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self._firsts)):
            yield from self._decode_block(index)

    def _first_word(self, offset: int) -> bytes:
        end = offset + 1
        while self._blocks[end] < _SHARED:
            end += 1
        return self._blocks[offset + 1 : end]

    def _decode_block(self, index: int) -> dict[str, bytes]:
        data = self._blocks[self._offsets[index] : self._offsets[index + 1]]
        words: dict[str, bytes] = {}
        letters, phones, position = b"", b"", 0
        while position < len(data):
            prefix = data[position]
            start = position = position + 1
            while data[position] < _SHARED:
                position += 1
            letters = letters[:prefix] + data[start:position]
            shared = data[position] - _SHARED
            start = position = position + 1
            while position < len(data) and data[position] >= _PHONE:
                position += 1
            phones = phones[:shared] + data[start:position]
            words[letters.decode()] = phones
        return words
