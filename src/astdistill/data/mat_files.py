"""Reader for MATLAB files of versions 5 to 7, as specified by MathWorks (MAT-File Format, level 5): numbers, text,
cells of text, and structures of these.

Implemented here because the usual library crashes the process on some damaged files (SIGSEGV).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError
from ..runtime.text import in_one_line, reason

HEADER, VERSION_AT, HDF5 = 128, 124, b"\x89HDF"
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of numbers by the type of their element; numbers may be stored in a narrower type than they have in MATLAB."""
TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCTURE, CHAR, FIRST_NUMBER, LAST_NUMBER = 1, 2, 4, 6, 15
"""Classes of arrays; the others are objects, sparse arrays and functions."""
COMPLEX = 0x0800
NOTHING = np.empty(0, dtype=object)
"""What stands for values that are not read."""
DEEPEST = 20
MOST_AXES = 32


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays by name: numbers in their stored type, text and cells of text as text `[N]`, anything else as an
    empty array of objects, so that its name is known. Each field of N structures is an array of its own, under the
    names of both (`annotations.class`), if it holds one number or one text in each: numbers or text `[N]`.

    Raises InputError for other versions, and if the file is truncated or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error
    if data[:4] == HDF5 or data[VERSION_AT + 1 : VERSION_AT + 2] == b"\2" or data[512:516] == HDF5:
        raise InputError(
            f"{path} is a .mat file of version 7.3, which is not read; save it in MATLAB with -v7, or as .npz."
        )
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    try:
        if order is None:
            raise ValueError("it does not begin as those of version 5 to 7 do")
        return dict(_variables(memoryview(data)[HEADER:], order))
    except (ValueError, struct.error, zlib.error, OverflowError, MemoryError) as error:
        why = in_one_line(error)
        raise InputError(f"{path} cannot be read as a .mat file ({why}); download it again.") from error


def _variables(data: memoryview, order: str) -> Iterator[tuple[str, np.ndarray]]:
    for kind, content in _elements(data, order):
        if kind == COMPRESSED:
            kind, content = _decompress(content, order)
        if kind == MATRIX:
            name, values = _read_array(content, order, 0)
            if isinstance(values, dict):
                yield name, NOTHING
                yield from ((f"{name}.{field}", each) for field, each in values.items())
            else:
                yield name, values


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and contents of each element. Raises ValueError if one is longer than the remaining data."""
    while len(data) >= 8:
        (tag,) = struct.unpack(f"{order}I", data[:4])
        if small := tag >> 16:  # up to four bytes are stored in the tag itself
            kind, start, size, total = tag & 0xFFFF, 4, small, 8
        else:
            (size,) = struct.unpack(f"{order}I", data[4:8])
            kind, start, total = tag, 8, 8 + size
            if kind != COMPRESSED:
                total += -size % 8
        if start + size > len(data) or (small and size > 4):
            raise ValueError(f"an element of {size} bytes goes beyond the end of the file")
        yield kind, data[start : start + size]
        data = data[total:]


def _decompress(data: memoryview, order: str) -> tuple[int, memoryview]:
    """The element inside a compressed one; no more than its declared length is decompressed."""
    stream = zlib.decompressobj()
    head = stream.decompress(data, 8)
    if len(head) < 8:
        raise ValueError("a compressed element has no beginning")
    kind, size = struct.unpack(f"{order}II", head)
    body = stream.decompress(stream.unconsumed_tail, size + 1)
    if len(body) != size or not stream.eof:
        raise ValueError(f"a compressed element is not the {size} bytes that it says")
    return kind, memoryview(body)


def _read_array(data: memoryview, order: str, depth: int) -> tuple[str, np.ndarray | dict[str, np.ndarray]]:
    """Name and values of an array, of structures those of each field."""
    if depth > DEEPEST:
        raise ValueError("cells are nested too deeply")
    parts = _elements(data, order)
    flags, lengths, name = (_next_element(parts) for _ in range(3))
    (flag_bits,) = struct.unpack(f"{order}I", flags[1][:4])
    shape = tuple(np.frombuffer(lengths[1], f"{order}i4").tolist())
    if not 2 <= len(shape) <= MOST_AXES or min(shape) < 0:
        raise ValueError(f"an array has the shape {shape[:MOST_AXES]}")
    array_name, kind = bytes(name[1]).decode("utf-8", errors="backslashreplace"), flag_bits & 0xFF
    if kind == CHAR:
        return array_name, _read_text(*_next_element(parts), shape, order)
    if kind == CELL:
        return array_name, _read_cells(list(parts), shape, order, depth)
    if kind == STRUCTURE:
        return array_name, _read_structures(parts, math.prod(shape), order, depth)
    if FIRST_NUMBER <= kind <= LAST_NUMBER and not flag_bits & COMPLEX:
        return array_name, _read_numbers(*_next_element(parts), shape, order)
    return array_name, NOTHING


def _next_element(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    part = next(parts, None)
    if part is None:
        raise ValueError("an array ends before its values")
    return part


def _read_numbers(kind: int, data: memoryview, shape: tuple[int, ...], order: str) -> np.ndarray:
    if kind not in TYPES:
        raise ValueError(f"an array holds values of type {kind}")
    return np.frombuffer(data, order + TYPES[kind]).reshape(shape, order="F")


def _read_text(kind: int, data: memoryview, shape: tuple[int, ...], order: str) -> np.ndarray:
    """One text for each row of characters, without trailing blanks."""
    raw = bytes(data)
    if kind in TEXTS:
        byte_order = {"utf-8": ""}.get(TEXTS[kind], {"<": "-le", ">": "-be"}[order])
        characters = list(raw.decode(TEXTS[kind] + byte_order))
    else:
        characters = [chr(code) for code in _read_numbers(kind, data, (-1,), order).tolist()]
    if len(shape) != 2 or len(characters) != math.prod(shape):
        raise ValueError(f"a text of shape {shape} has {len(characters)} signs")
    count = shape[0]
    return np.array(["".join(characters[row::count]).rstrip() for row in range(count)], dtype=np.str_)


def _read_cells(parts: list[tuple[int, memoryview]], shape: tuple[int, ...], order: str, depth: int) -> np.ndarray:
    """Cells of one text each as an array of texts; an empty array of objects for any others."""
    if len(parts) != math.prod(shape):
        raise ValueError(f"cells of shape {shape} are {len(parts)}")
    values = [_read_array(data, order, depth + 1)[1] for kind, data in parts if kind == MATRIX]
    texts = _joined(values)
    return texts if texts.dtype.kind == "U" else NOTHING


def _read_structures(
    parts: Iterator[tuple[int, memoryview]], count: int, order: str, depth: int
) -> dict[str, np.ndarray]:
    """The values of each field of `count` structures."""
    (width,) = struct.unpack(f"{order}i", _next_element(parts)[1][:4])
    text = bytes(_next_element(parts)[1])
    if width < 1:
        raise ValueError(f"the names of fields have {width} signs")
    starts = range(0, len(text), width)
    names = [text[at : at + width].split(b"\0")[0].decode("utf-8", errors="backslashreplace") for at in starts]
    values = [_read_array(data, order, depth + 1)[1] if data else NOTHING for kind, data in parts if kind == MATRIX]
    if len(values) != count * len(names):
        raise ValueError(f"{count} structures of {len(names)} fields have {len(values)} values")
    return {name: _joined(values[at :: len(names)]) for at, name in enumerate(names)}


def _joined(values: Sequence[np.ndarray | dict[str, np.ndarray]]) -> np.ndarray:
    """One text, or one number, of each as an array; an empty array of objects for any others."""
    arrays = [each for each in values if not isinstance(each, dict)]
    kinds = {each.dtype.kind for each in arrays}
    if not arrays or len(arrays) != len(values):
        return NOTHING
    if kinds == {"U"} and all(each.size <= 1 for each in arrays):
        return np.array(["".join(each.tolist()) for each in arrays])
    if kinds <= {*"iuf"} and all(each.size == 1 for each in arrays):
        return np.concatenate([each.ravel() for each in arrays])
    return NOTHING
