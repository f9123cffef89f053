"""A run folder that is copied to the cloud at each save: what is there goes on as the run itself would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from problems import SMALL_RUN, exit_code

from astdistill.runtime import mirror as module
from astdistill.runtime.errors import InputError
from astdistill.runtime.mirror import Mirror, mirrored
from astdistill.runtime.objects import Objects, Url

ADDRESS = "memory://bucket/run"
RUN = ["run", "digits-ipc1", "--method", "dm", "--evaluation.baselines", "random", *SMALL_RUN]


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    fsspec.filesystem("memory").store.clear()
    yield
    fsspec.filesystem("memory").store.clear()


def there() -> dict[str, bytes]:
    objects = Objects(Url(ADDRESS))
    return {name: objects.read_all(name) for name in objects.sizes()}


def test_a_run_is_there_whole_and_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(*RUN, "--out", "one", "--mirror", ADDRESS) == 0
    copied = there()
    assert copied.pop("astdistill.json")
    files = {path.relative_to("one").as_posix(): path for path in Path("one").rglob("*") if path.is_file()}
    assert copied == {name: path.read_bytes() for name, path in files.items() if not path.name.startswith(".")}
    for name, data in copied.items():
        Path("two", name).parent.mkdir(parents=True, exist_ok=True)
        Path("two", name).write_bytes(data)
    assert exit_code(*RUN, "--distill.iterations", "6", "--out", "two") == 0
    lines = Path("two", "metrics.jsonl").read_bytes()
    assert lines.startswith(copied["metrics.jsonl"]), "it goes on from the state that was copied"
    assert len(lines.splitlines()) == 6


def test_a_save_is_copied_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.005)
    copied = threading.Event()
    original = Mirror.copy

    def copy(self: Mirror) -> None:
        original(self)
        copied.set()

    monkeypatch.setattr(Mirror, "copy", copy)
    with mirrored(tmp_path, Url(ADDRESS)):
        for text in ("one", "two"):
            (tmp_path / "metrics.jsonl").write_text(text)
            copied.clear()
            (tmp_path / "state.safetensors").write_text(text)
            assert copied.wait(10)
            copied.clear()
            (tmp_path / "scores.partial.json").write_text(text)
            assert copied.wait(10)
            assert there()["state.safetensors"] == there()["metrics.jsonl"] == text.encode()


def test_a_mirror_that_fails_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refused(*_: object, **__: object) -> None:
        raise OSError("no route")

    with mirrored(tmp_path, Url(ADDRESS)):
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refused)
    assert "The mirror is behind: memory://bucket/run/config.json cannot be reached" in capsys.readouterr().err


def test_what_cannot_be_a_mirror_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, sentence in {
        ("--mirror", "copies"): "--mirror copies is a folder; name an address such as s3://BUCKET/FOLDER",
        ("--mirror", "ftp://host/x"): "'ftp' is no scheme",
        ("--mirror", ADDRESS, "--seeds", "2"): "copies one run, not 2; leave out --mirror or --seeds",
    }.items():
        assert exit_code(*RUN, "--out", "one", *words) == 2
        assert sentence in capsys.readouterr().err
        assert not Path("one").exists()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refused)
    with pytest.raises(InputError, match="may not be used"), mirrored(tmp_path / "one", Url(ADDRESS)):
        pytest.fail("nothing is begun")
