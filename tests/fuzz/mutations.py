"""Damage to files: bytes, and the words and numbers of JSON."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 2**64, 10**30, 1e300, -0.5, "", "nan", "\u200b", "\x1b[2J", "x" * 5000, "evil:f", [], [[]], {}, {"part": "evil:f"}, ["\ud800"],
)  # fmt: skip
RAW = (b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"[" * 100_000, b'{"a":' * 2000, b"\xff\xfe", b"\x00", b"{", b"")
"""What no JSON library of ours would write."""


def cut(data: bytes, draw: random.Random) -> bytes:
    """The file as a full disk leaves it."""
    return data[: draw.randrange(len(data) + 1)]


def flip(data: bytes, draw: random.Random) -> bytes:
    """A few other bits."""
    raw = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if raw:
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return bytes(raw)


def flip_early(data: bytes, draw: random.Random) -> bytes:
    """Other bits among the first, where files say what they are."""
    return flip(data[:512], draw) + data[512:]


def splice(data: bytes, draw: random.Random) -> bytes:
    """A piece that is left out, put in twice, or filled with one byte."""
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice((1, 7, 64, 4096)))
    piece = draw.choice((b"", data[start:end] * 2, bytes([draw.randrange(256)]) * (end - start), bytes(8)))
    return data[:start] + piece + data[end:]


def numbers(data: bytes, draw: random.Random) -> bytes:
    """A length or a number of the file that is huge, negative or none."""
    if len(data) < 8:
        return b""
    start = draw.choice((0, draw.randrange(min(len(data), 256)), draw.randrange(len(data))))
    value = draw.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**40))
    return data[:start] + struct.pack("<Q", value) + data[start + 8 :]


def empty(data: bytes, draw: random.Random) -> bytes:
    """Nothing, or what is no file of any kind."""
    return draw.choice((b"", b"\n", bytes(64), b"\x80\x02.", draw.randbytes(200)))


def in_json(data: bytes, draw: random.Random) -> bytes:
    """A value of a JSON file, or of the header of a safetensors file, that is another."""
    if data[:1] in (b"{", b"["):
        return _changed(data, draw)
    if len(data) > 8:
        (length,) = struct.unpack("<Q", data[:8])
        if data[8:9] == b"{" and length <= len(data):
            head = _header(data[8 : 8 + length], draw)
            return struct.pack("<Q", len(head)) + head + data[8 + length :]
    return splice(data, draw)


def _header(data: bytes, draw: random.Random) -> bytes:
    """The header of a safetensors file: half of the time, a value inside the JSON in its metadata."""
    try:
        value = json.loads(data)
    except ValueError:
        return splice(data, draw)
    words = value.get("__metadata__", {})
    if words and draw.random() < 0.6:
        name = draw.choice(sorted(words))
        words[name] = draw.choice(
            (_changed(words[name].encode(), draw).decode("utf-8", "replace"), json.dumps(draw.choice(ODD)))
        )
        return json.dumps(value).encode()
    return _changed(data, draw)


def _changed(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    try:
        value = json.loads(data)
    except ValueError:
        if len(lines) < 2:
            return splice(data, draw)
        place = draw.randrange(len(lines))  # a file of lines
        lines[place] = draw.choice((_changed(lines[place], draw), draw.choice(RAW)))
        return b"\n".join(lines)
    places = list(_places(value))
    if not places or draw.random() < 0.15:
        raw = json.dumps(value).encode()
        return raw.replace(draw.choice((b"1", b'"', b"[", b"0")), draw.choice(RAW), 1)
    holder, key = draw.choice(places)
    if isinstance(holder, dict) and draw.random() < 0.3:
        del holder[key]
    else:
        holder[key] = draw.choice(ODD)
    return json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place inside, as its container and its key."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    cut, flip, flip_early, splice, numbers, empty, in_json, in_json, in_json,
)  # fmt: skip
