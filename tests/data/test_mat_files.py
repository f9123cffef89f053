"""MATLAB's files: what scipy writes and reads, bit for bit, and damaged ones, at some of which scipy ends the process."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from astdistill.data.mat_files import read_mat
from astdistill.runtime.errors import InputError

DRAW = np.random.default_rng(0)
NUMBERS = {
    name: (DRAW.random((3, 4, 2)) * 100).astype(name)
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64")
}
HELD: dict[str, Any] = NUMBERS | {
    "a_name_longer_than_four": DRAW.random((2, 5)),
    "row": np.arange(3.0),
    "none": np.empty((0, 4)),
    "images": DRAW.integers(0, 256, (2, 3, 4, 5), dtype=np.uint8),
}


@pytest.mark.parametrize("packed", [False, True])
def test_numbers_are_those_that_scipy_reads(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "a.mat"
    savemat(path, HELD, do_compression=packed)
    read, theirs = read_mat(path), loadmat(str(path))
    assert read.keys() == HELD.keys()
    for name in HELD:
        assert (read[name].dtype, read[name].shape) == (theirs[name].dtype, theirs[name].shape)
        assert np.array_equal(read[name], theirs[name])


def test_text_and_cells_are_names_and_all_else_is_only_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    classes = np.array(["cat", "Käfer", "魚"], dtype=object)
    held = {"text": "a word", "classes": classes, "cells": np.array([1, "b"], dtype=object), "s": {"a": 1}, "z": 1 + 2j}
    savemat(path, held)
    read = read_mat(path)
    assert read["text"].tolist() == ["a word"]
    assert read["classes"].tolist() == ["cat", "Käfer", "魚"]
    assert {name: read[name].size for name in ("cells", "s", "z")} == {"cells": 0, "s": 0, "z": 0}


def test_fields_of_structures_are_arrays(tmp_path: Path) -> None:
    """One number or one text in each structure; other fields are only named."""
    kinds = [("path", object), ("class", object), ("box", object), ("inner", object)]
    rows = [(f"{n}.jpg", np.uint8(n), np.arange(n + 1), {"a": n}) for n in range(3)]
    savemat(tmp_path / "a.mat", {"rows": np.array(rows, dtype=kinds), "x": np.eye(2)}, do_compression=True)
    read = read_mat(tmp_path / "a.mat")
    assert [*read] == ["rows", "rows.path", "rows.class", "rows.box", "rows.inner", "x"]
    assert read["rows.path"].tolist() == ["0.jpg", "1.jpg", "2.jpg"]
    assert read["rows.class"].tolist() == [0, 1, 2]
    assert read["rows"].size == read["rows.box"].size == read["rows.inner"].size == 0
    assert read["x"].tolist() == np.eye(2).tolist()


def test_the_other_byte_order(tmp_path: Path) -> None:
    """As MATLAB wrote on SPARC; made by hand."""
    values = np.array([[1, 2, 3], [4, 5, 6]], dtype=">i2")
    parts = [(6, struct.pack(">II", 10, 0)), (5, struct.pack(">ii", 2, 3)), (1, b"x"), (3, values.tobytes(order="F"))]
    body = b"".join(struct.pack(">II", kind, len(held)) + held + bytes(-len(held) % 8) for kind, held in parts)
    (tmp_path / "a.mat").write_bytes(b"MATLAB".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(body)) + body)
    assert read_mat(tmp_path / "a.mat")["x"].tolist() == values.tolist()


def test_a_small_file_that_unpacks_to_much_is_not_unpacked(tmp_path: Path) -> None:
    packed = zlib.compress(struct.pack("<II", 14, 1 << 10) + bytes(1 << 24))
    (tmp_path / "a.mat").write_bytes(b"MATLAB".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(InputError, match="a compressed element is not the 1024 bytes that it says"):
        read_mat(tmp_path / "a.mat")


def test_other_versions_are_named(tmp_path: Path) -> None:
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3".ljust(124) + b"\0\2IM" + bytes(400))
    with pytest.raises(InputError, match=r"new\.mat is a \.mat file of version 7\.3, which is not read; save it"):
        read_mat(tmp_path / "new.mat")
    savemat(tmp_path / "old.mat", {"x": np.eye(3)}, format="4")
    with pytest.raises(InputError, match=r"old\.mat cannot be read as a \.mat file \(it does not begin as those of"):
        read_mat(tmp_path / "old.mat")


def test_damage_is_a_sentence_or_other_numbers(tmp_path: Path) -> None:
    path, draw, refused = tmp_path / "a.mat", random.Random(0), 0
    rows = np.array([("a", 1), ("b", 2)], dtype=[("path", object), ("class", object)])
    savemat(path, {"images": HELD["images"], "classes": np.array(["cat", "dog"], dtype=object), "rows": rows})
    whole = path.read_bytes()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 4))):
            damaged[draw.randrange(120, len(whole))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.choice((len(whole), draw.randrange(len(whole))))])
        try:
            read_mat(path)
        except InputError:
            refused += 1
    assert refused > 100
