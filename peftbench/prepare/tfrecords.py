"""TFRecord files and the ``tf.train.Example`` messages in them, read without TensorFlow.

A TFRecord file is a row of: length (uint64), checksum of it (uint32), content, checksum (uint32),
little-endian. An Example is a protocol buffer: field 1 holds Features, whose field 1 repeats
entries of a map from name (1) to Feature (2); a Feature holds a list of bytes (1), of floats (2)
or of integers (3), whose field 1 repeats the values. Source: the format's public
descriptions (``record_writer.h``, ``example.proto``, ``feature.proto``). Checksums are not
compared: the archive around the files has its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, WIDE, BYTES, NARROW = 0, 1, 2, 5


def records(content: bytes) -> Iterator[bytes]:
    """Yield the content of every record.

    Raises:
        ValueError: the file is cut short.

    """
    at = 0
    while at < len(content):
        if at + 12 > len(content):
            raise ValueError("a record's head is cut short")
        (size,) = struct.unpack_from("<Q", content, at)
        end = at + 12 + size
        if end + 4 > len(content):
            raise ValueError("a record is cut short")
        yield content[at + 12 : end]
        at = end + 4


def example(content: bytes) -> dict[str, list[bytes] | list[int]]:
    """Return name -> values of an Example; lists of floats are left out.

    Raises:
        ValueError: no such message.

    """
    out: dict[str, list[bytes] | list[int]] = {}
    for features in _bytes(content, 1):
        for entry in _bytes(features, 1):
            (name,), (feature,) = _bytes(entry, 1), _bytes(entry, 2)
            for values in _bytes(feature, 1):
                out[name.decode()] = _bytes(values, 1)
            for values in _bytes(feature, 3):
                out[name.decode()] = _integers(values)
    return out


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of every field of a message."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(content, at)
        elif kind in (WIDE, NARROW):
            size = 8 if kind == WIDE else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if at + size > len(content):
            raise ValueError("a field is cut short")
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError("a number is cut short")
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _bytes(content: bytes, number: int) -> list[bytes]:
    return [v for n, v in _fields(content) if n == number and isinstance(v, bytes)]


def _integers(content: bytes) -> list[int]:
    """Return the values of an Int64List, packed or not; those from 2^63 on are negative."""
    out: list[int] = []
    for number, value in _fields(content):
        if number != 1:
            continue
        if isinstance(value, int):
            out.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            out.append(one)
    return [v - (1 << 64) if v >= 1 << 63 else v for v in out]
