"""Records: the bytes of one entry in a shard. A record proves itself, because its checksum covers every other byte.

A record is a fixed head, JSON with names, dtypes and shapes, and the arrays end to end, each at a multiple of 64 bytes.
The head holds the key, the digest of the settings that made the entry, and the length of the record. The settings are
a record of their own, because thousands of entries share them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

MAGIC = b"refexp1\n"
HEAD = struct.Struct("<8sQ32s32sQQ")
"""Magic, checksum of all that follows it, key, digest of the settings, bytes of the record, bytes of the JSON."""
CHECKED = 16
"""The checksum covers the record from this byte on. The magic before it is compared as it is."""
ALIGNMENT = 64
NOTHING = "0" * 64
"""The digest of the settings in a record that holds settings."""

Entry = dict[str, np.ndarray]


class Damaged(Exception):
    """Bytes that are not the record that they should be. The message says why: `its checksum is wrong`."""


class Record(NamedTuple):
    """A record whose checksum is right. key, made_by: 64 hex digits. settings: None for an entry."""

    key: str
    made_by: str
    settings: dict[str, Any] | None
    arrays: Entry


def pack(
    key: str, made_by: str, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Return the record as u8 [bytes]. key, made_by: 64 hex digits. Raises TypeError for arrays of Python objects."""
    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if any(array.dtype.hasobject for array in packed.values()):
        raise TypeError("an entry of the store cannot hold Python objects")
    names = [[name, array.dtype.str, array.shape] for name, array in packed.items()]
    about = json.dumps({"arrays": names, "settings": settings}, default=str).encode()
    starts, end = [], padded(HEAD.size + len(about))
    for array in packed.values():
        starts.append(end)
        end += padded(array.nbytes)
    record = np.zeros(end, dtype=np.uint8)
    record[HEAD.size : HEAD.size + len(about)] = np.frombuffer(about, dtype=np.uint8)
    for start, array in zip(starts, packed.values(), strict=True):
        record[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    HEAD.pack_into(record.data, 0, MAGIC, 0, bytes.fromhex(key), bytes.fromhex(made_by), end, len(about))
    struct.pack_into("<Q", record.data, len(MAGIC), xxh3_64_intdigest(record.data[CHECKED:]))
    return record


def unpack(content: Any, key: str | None = None) -> Record:
    """Check a record, u8 [bytes], and return it. Its arrays are views of `content`.

    key: what the record must have. None accepts any. Raises Damaged.
    """
    if len(content) < HEAD.size or bytes(content[: len(MAGIC)]) != MAGIC:
        raise Damaged("it does not begin like a record")
    _, checksum, found, made_by, length, about = HEAD.unpack_from(content)
    if length != len(content):
        raise Damaged(f"it has {len(content)} bytes, and its head says {length}")
    if checksum != xxh3_64_intdigest(content[CHECKED:]):
        raise Damaged("its checksum is wrong")
    if key is not None and found.hex() != key:
        raise Damaged(f"it is the entry {found.hex()}")
    try:
        described = json.loads(bytes(content[HEAD.size : HEAD.size + about]))
        arrays, start = {}, padded(HEAD.size + about)
        for name, dtype, shape in described["arrays"]:
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(content, np.dtype(dtype), count, start).reshape(shape)
            start += padded(arrays[name].nbytes)
        return Record(found.hex(), made_by.hex(), described["settings"], arrays)
    except (ValueError, KeyError, TypeError) as error:  # written by another program, because the checksum is right
        raise Damaged(f"its description cannot be read: {error}") from None


def length_of(head: bytes) -> int:
    """Return the length that the head of a record states. 0 if it is not a head."""
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        return 0
    length: int = HEAD.unpack_from(head)[4]
    return length if length >= HEAD.size else 0


def padded(size: int) -> int:
    """Round up to the alignment of arrays and records."""
    return -(-size // ALIGNMENT) * ALIGNMENT
