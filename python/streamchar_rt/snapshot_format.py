"""The file format of snapshots: a container of JSON and arrays, guarded by a checksum.

All numbers are little-endian::

    offset  bytes  what
    0       8      magic, 89 53 43 53 0D 0A 1A 0A ("\\x89SCS\\r\\n\\x1a\\n"): broken by any text conversion
    8       4      format version, unsigned
    12      4      zero
    16      8      length H of the header in bytes, unsigned
    24      8      length P of the payload in bytes, unsigned
    32      H      header, JSON in ASCII
    32+H    P      payload: the arrays one after another, each at a multiple of 64 bytes from the payload's start
    32+H+P  32     SHA-256 of everything before it

The header's ``arrays`` gives each array as ``[dtype, shape, offset, bytes]``. What the rest of it means is
``stream_codec``'s business. Nothing in a file is ever executed: there is no pickle.
"""
from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import SnapshotError

MAGIC = b"\x89SCS\r\n\x1a\n"
VERSION = 4
_START = struct.Struct("<8sIIQQ")
_ALIGNMENT = 64
_DTYPES = {name: np.dtype(name) for name in ("|b1", "|u1", "<i2", "<i4", "<i8", "<f4", "<f8")}
_DAMAGED = "take the snapshot again, or use another copy of the file"


def pack(header: Mapping[str, Any], arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    """A snapshot file; ``header`` is JSON without the key ``arrays``.

    Raises:
        TypeError: for an array of a dtype that the format does not have.
    """
    table: list[Any] = []
    parts: list[Any] = []  # bytes, and arrays as they are: the file is put together once
    offset = 0
    for array in arrays:
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in _DTYPES:
            raise TypeError(f"snapshots hold no arrays of {array.dtype}")
        data = np.ascontiguousarray(array, dtype=_DTYPES[dtype]).reshape(-1).view(np.uint8)
        table.append([dtype, list(array.shape), offset, len(data)])
        padding = -len(data) % _ALIGNMENT
        parts += [data, bytes(padding)]
        offset += len(data) + padding
    text = json.dumps({**header, "arrays": table}, separators=(",", ":")).encode("ascii")
    parts = [_START.pack(MAGIC, VERSION, 0, len(text), offset), text, *parts]
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return b"".join([*parts, checksum.digest()])


def unpack(data: bytes, name: str = "the snapshot") -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """Header and arrays of a snapshot file, read-only views of ``data``; ``name`` is what messages call it.

    Raises:
        SnapshotError: where it is no snapshot, of another version, truncated or changed by so much as a bit.
    """
    if len(data) < len(MAGIC) or data[: len(MAGIC)] != MAGIC:
        raise SnapshotError(f"{name} is not a snapshot", hint="give what Snapshot.save() wrote")
    if len(data) < _START.size:
        raise SnapshotError(f"{name} is truncated to {len(data)} bytes", hint=_DAMAGED)
    _, version, _, header_bytes, payload_bytes = _START.unpack_from(data)
    expected = _START.size + header_bytes + payload_bytes + hashlib.sha256().digest_size
    if version != VERSION:
        hint = "update streamchar_rt" if version > VERSION else "take it again with this version"
        raise SnapshotError(f"{name} has format version {version}; this package reads {VERSION}", hint=hint)
    if len(data) != expected:
        raise SnapshotError(f"{name} has {len(data)} bytes instead of {expected}", hint=_DAMAGED)
    body = memoryview(data)[: -hashlib.sha256().digest_size]
    if hashlib.sha256(body).digest() != data[len(body) :]:
        raise SnapshotError(f"{name} is damaged: its checksum differs", hint=_DAMAGED)
    payload = body[_START.size + header_bytes :]
    try:
        header = json.loads(bytes(body[_START.size : _START.size + header_bytes]))
        arrays = [_array(payload, *entry) for entry in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SnapshotError(f"{name} has an unreadable header", hint=_DAMAGED) from error
    return header, arrays


def _array(payload: memoryview, dtype: str, shape: list[int], offset: int, size: int) -> npt.NDArray[Any]:
    kind = _DTYPES[dtype]
    if min([0, offset, *shape]) < 0 or offset + size > len(payload) or math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"an array of {dtype} {shape} does not fit")
    return np.frombuffer(payload[offset : offset + size], kind).reshape(shape)
