"""Where the package reads files: the functions of its source that call what opens, decodes or parses one."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import astdistill

ROOT = Path(astdistill.__file__).parent
READS = frozenset({
    "ParquetFile", "RarFile", "ZipFile", "fromfile", "from_file", "getvalue", "load_from_disk", "load_tensors", "loadmat", "loads",
    "memmap", "parse_json", "read_bytes", "read_json", "read_lines", "read_schema", "read_table", "read_text", "safe_open",
    "_PlainUnpickler", "TensorUnpickler",
}) - {"getvalue", "RarFile"}  # fmt: skip
"""Calls by the last word of their names."""
WHOLE = frozenset({"np.load", "torch.load", "pickle.load", "gzip.open", "Image.open", "json.load", "tomllib.load"})
"""Calls by their whole names, of which the last word says too little."""
MODES = ("rb", "r", "r+b")


@cache
def sites() -> set[str]:
    """Every such function, as 'data/cifar.py:_bytes'."""
    return {
        f"{path.relative_to(ROOT).as_posix()}:{name}"
        for path in sorted(ROOT.rglob("*.py"))
        for name in _readers(ast.parse(path.read_text(encoding="utf-8")), "")
    }


def _readers(tree: ast.AST, function: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _readers(node, node.name)
            continue
        if isinstance(node, ast.Call) and _reads(node):
            yield function
        yield from _readers(node, function)


def _dotted(called: ast.AST) -> str:
    """'np.load' for what is called so; of anything but names, the words behind it."""
    if isinstance(called, ast.Attribute):
        return f"{_dotted(called.value)}.{called.attr}"
    return getattr(called, "id", "")


def _reads(call: ast.Call) -> bool:
    name = _dotted(call.func)
    last = name.rpartition(".")[2]
    if last in READS or name in WHOLE:
        return True
    modes = [each.value for each in call.args if isinstance(each, ast.Constant)]
    return last == "open" and any(mode in modes for mode in MODES)


def entered(read: Callable[[], Any]) -> set[str]:
    """The functions of the package that `read` enters, in the same form."""
    codes = set[CodeType]()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    if sys.gettrace() is None:  # it is called for Python's own functions alone; coverage needs it for itself
        begin, begin_threads = sys.settrace, threading.settrace
    else:
        begin, begin_threads = sys.setprofile, threading.setprofile
    begin_threads(note)
    begin(note)
    try:
        read()
    finally:
        begin(None)
        begin_threads(None)  # pyright: ignore[reportArgumentType]
    prefix = f"{ROOT}/"
    places = ((code.co_filename.replace("\\", "/"), code.co_name) for code in codes)
    return {f"{file.removeprefix(prefix)}:{name}" for file, name in places if file.startswith(prefix)}
