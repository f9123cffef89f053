"""Files are whole or absent, and a broken one is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from astdistill.runtime.errors import InputError
from astdistill.runtime.files import (
    append_line,
    load_tensors,
    read_json,
    read_lines,
    replacing,
    rewrite_lines,
    save_tensors,
    write_json,
    write_text,
)
from astdistill.runtime.machine import cores
from astdistill.runtime.provenance import machine, provenance


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_the_old_file_whole_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "state"
    write_text(path, "old")
    with pytest.raises(error):
        interrupted(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state"]


def test_an_interrupted_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "new" / "state", RuntimeError)
    assert names(tmp_path / "new") == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_text(path, "old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["state"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failing_tensor_write_keeps_the_old_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_tensors(path, {"a": torch.zeros(3)})
    assert torch.equal(load_tensors(path)[0]["a"], torch.ones(3))
    assert names(tmp_path) == ["state.safetensors"]


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.safetensors"
    tensors = {
        "a": torch.randn(2, 3),
        "b": torch.arange(4),
        "c": torch.tensor(0.1),
        "d": torch.randn(4, 5).bfloat16().T,
        "e": torch.randn(1, 2, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    metadata = {"text": "η", "list": [1, 2.5, None], "nested": {"a": True}}
    save_tensors(path, tensors, metadata)
    found, header = load_tensors(path)
    assert header == metadata
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("size", [0, 4, 60, -1])
def test_a_cut_tensor_file_is_named(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.safetensors"
    save_tensors(path, {"a": torch.ones(100)}, {"note": 1})
    os.truncate(path, size % path.stat().st_size)
    with pytest.raises(
        InputError,
        match=r"cut\.safetensors is not a whole safetensors file .*move it away and run the command that wrote it again",
    ):
        load_tensors(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (load_tensors, read_json):
        with pytest.raises(InputError, match=r"There is no file .*absent\.x"):
            read(tmp_path / "absent.x")


@pytest.mark.parametrize("text", ["", '{"a": 1', "\x80"])
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.json cannot be read as JSON"):
        read_json(path)


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, "ü"]})
    assert read_json(tmp_path / "a.json") == {"b": [1, "ü"]}


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "metrics.jsonl"
    assert read_lines(path) == []
    for number in range(3):
        append_line(path, {"iteration": number, "note": "é\u2028"})
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last)):
        path.write_bytes(whole[:-cut])
        kept = 3 if cut == 1 else 2  # only the line break is missing: the line itself is whole
        assert [line["iteration"] for line in read_lines(path)] == list(range(kept))
    rewrite_lines(path, read_lines(path))
    append_line(path, {"iteration": 2})
    assert [line["iteration"] for line in read_lines(path)] == [0, 1, 2]
    assert names(path.parent) == ["metrics.jsonl"]


def test_no_line_is_appended_through_a_link(tmp_path: Path) -> None:
    """Somebody else's run folder could have one in the place of a log, to any file of the user's."""
    (tmp_path / "mine.txt").write_text("mine\n", encoding="utf-8")
    (tmp_path / "clock.jsonl").symlink_to("mine.txt")
    with pytest.raises(InputError, match=r"clock\.jsonl is a link to mine\.txt, which is not written to"):
        append_line(tmp_path / "clock.jsonl", {"iteration": 1})
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine\n"


def test_provenance_says_where_a_number_came_from() -> None:
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == 1
    assert found["machine"]["cores"] == cores()
    assert machine()["accelerator"] is None
