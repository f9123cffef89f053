"""The doctor tells a machine that works from one that does not, and says what to do about it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image

from astdistill.autodiff.native.build import KernelError
from astdistill.autodiff.native.engine import NativeEngine
from astdistill.cli import doctor as trial
from astdistill.cli import doctor_checks as machinery
from astdistill.cli import doctor_checks as packages
from astdistill.cli import doctor_checks as places
from astdistill.cli.doctor import Finding, guarded, table, verdict
from astdistill.cli.main import main
from astdistill.data.loading import load_dataset
from astdistill.runtime.errors import InputError


def only(findings: Iterator[Finding], name: str = "") -> Finding:
    (found,) = [finding for finding in findings if finding.name.startswith(name)]
    return found


@pytest.mark.slow
def test_a_machine_that_passes_these_tests_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    found = {finding["name"]: finding for finding in shown["findings"]}
    assert shown["works"] is True
    assert {
        "versions",
        "memory",
        "disk, runs",
        "disk, cache",
        "native engine",
        "engine, cpu",
        "torch.compile, cpu",
        "data",
    } <= set(found)
    assert "equal to the bit" in found["self-check"]["text"]
    assert list(tmp_path.iterdir()) == []


def test_something_bad_is_exit_code_1_and_named_in_the_last_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in ((machinery, "kernels"), (machinery, "engine"), (machinery, "compiler"), (packages, "extras")):
        monkeypatch.setattr(module, name, lambda: iter(()))
    monkeypatch.setattr(
        trial,
        "trial",
        lambda: iter([Finding(name="self-check", state="bad", text="it failed [here]", advice="do that")]),
    )
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "it failed [here]" in shown
    assert "→ do that" in shown
    assert shown.rstrip().endswith("✗ Fix this first: self-check.")
    monkeypatch.setattr(trial, "trial", lambda: iter(()))
    assert main(["doctor"]) == 0
    assert "Next: astdistill demo" in capsys.readouterr().out


def test_a_check_that_breaks_is_shown_and_the_others_go_on() -> None:
    def broken() -> Iterator[Finding]:
        yield Finding(name="half", state="good", text="done")
        raise RuntimeError("out of\n luck")

    def refused() -> Iterator[Finding]:
        raise InputError("There is no engine 'x'.")

    first, second = guarded("whole", broken)
    assert (first.state, second.state, second.text) == ("good", "bad", "RuntimeError: out of luck")
    assert only(guarded("engine", refused)).text == "There is no engine 'x'."
    assert verdict([first, second]) == "✗ Fix this first: whole."
    assert table([first, second]).row_count == 2


def test_an_unknown_engine_in_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTDISTILL_ENGINE", "nativ")
    found = only(guarded("engine", machinery.engine))
    assert found.state == "bad"
    assert "Did you mean 'native'?" in found.text


@pytest.mark.parametrize(("asked", "taken"), [("eager", "eager"), ("auto", "native")])
def test_the_engine_that_is_taken_is_named_with_a_rate(asked: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if asked == "auto" and only(machinery.kernels()).state != "good":
        pytest.skip("no C compiler on this machine")
    monkeypatch.setattr(machinery, "TIMED", ("convnet-d2-w32", 4))
    monkeypatch.setenv("ASTDISTILL_ENGINE", asked)
    text = only(machinery.engine(), "engine, cpu").text
    assert text.startswith(f"{taken} ({'chosen by auto' if asked == 'auto' else 'set by $ASTDISTILL_ENGINE'}): ")
    assert int(text.split(": ")[1].split()[0].replace(",", "")) > 0


def test_without_a_compiler_the_native_engine_is_a_note_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    found = only(machinery.kernels())
    assert found.state == "note"
    assert "false ended with code 1" in found.text
    assert "install gcc" in found.advice


def test_kernels_that_compute_something_else_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        machinery.make()
    except KernelError:
        pytest.skip("no C compiler on this machine")
    right = NativeEngine.directional

    def wrong(*given: Any) -> Any:
        found = right(*given)
        return found._replace(images=found.images + 0.01 * found.images.norm())

    monkeypatch.setattr(NativeEngine, "directional", wrong)
    found = only(machinery.kernels())
    assert found.state == "bad"
    assert re.search(r"\b(4|8|16) channels at once", found.text)
    assert "ASTDISTILL_ENGINE=eager" in found.advice


def test_a_compiler_that_fails_is_a_note_and_one_that_errs_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: Any, **_: object) -> Any:
        raise RuntimeError("no g++ found")

    monkeypatch.setattr(torch, "compile", failing)
    found = only(machinery.compiler(), "torch.compile, cpu")
    assert (found.state, "no g++ found" in found.text, "g++" in found.advice) == ("note", True, True)
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda numbers: function(numbers) + 1)
    assert only(machinery.compiler(), "torch.compile, cpu").state == "bad"


def test_the_self_check_passes_here() -> None:
    found = only(trial.trial())
    assert found.state == "good", found.text


@pytest.mark.slow
def test_a_resumed_run_that_ends_with_other_bits_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trial.distill

    def careless(*given: Any, out: Path, **named: Any) -> Any:
        if (out / "state.safetensors").exists():
            (out / "state.safetensors").unlink()
            named["seed"] = 1
        return whole(*given, out=out, **named)

    monkeypatch.setattr(trial, "distill", careless)
    found = only(trial.trial())
    assert (found.state, "does not equal" in found.text) == ("bad", True)


@pytest.mark.parametrize(
    ("losses", "equal", "words"),
    [
        ([2.0] * 10 + [math.nan] + [1.0] * 10, True, "not finite"),
        ([1.0] * 20, True, "did not fall"),
        ([2.0] * 10 + [1.0] * 10, False, "does not equal one that was not stopped"),
        ([2.0] * 10 + [1.0] * 10, True, "2.000 to 1.000"),
    ],
)
def test_the_verdict_of_the_self_check(losses: list[float], equal: bool, words: str) -> None:
    found = trial.judged(losses, equal, 3.0)
    assert words in found.text
    assert found.state == ("good" if words[0] == "2" else "bad")


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_little_memory_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((None, "note"), (10**8, "bad"), (10**10, "good")):
        monkeypatch.setattr(places, "free_memory", lambda free=free: free)
        assert only(places.memory()).state == state


def test_disks_that_are_full_or_taken_are_bad_and_say_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    written(tmp_path, {"cache/kernels/x.so": "12345"})
    found = {finding.name: finding for finding in places.disks()}
    assert {finding.state for finding in found.values()} == {"good"}
    assert "the cache holds 5 B" in found["disk, cache"].text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    found = {finding.name: finding for finding in places.disks()}
    assert {finding.state for finding in found.values()} == {"bad"}
    assert "--experts.store" in found["disk, experts"].advice
    assert "ASTDISTILL_CACHE" in found["disk, cache"].advice
    written(tmp_path, {"experts": "a file"})
    assert "is a file" in next(finding.text for finding in places.disks() if finding.name == "disk, experts")
    monkeypatch.setattr(places.os, "access", lambda *_: False)
    assert "cannot be written to" in next(places.disks()).text


def test_data_are_looked_for_and_the_network_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def absent(self: object, name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", absent)
    monkeypatch.delenv("ASTDISTILL_DATA", raising=False)
    assert "not set" in only(places.data(network=False)).text
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path / "nowhere"))
    assert "no folder" in only(places.data(network=False)).text
    written(tmp_path, {"cifar100/x": ""})
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    found = only(places.data(network=False))
    assert (found.state, found.text) == ("good", f"cifar100 in {tmp_path}")
    assert asked == []
    there = only(places.data(network=True), "network")
    assert (there.state, "OSError: no route to host" in there.text) == ("note", True)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    assert only(places.data(network=True), "network").state == "good"


def test_versions_and_extras_come_from_what_the_package_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [
        "torch>=2.11",
        "no-such-thing>=1; extra == 'odd'",
        "pytest>=1; extra == 'test'",
        "gone>=1; python_version < '3'",
    ]
    extras = SimpleNamespace(get_all=lambda _: ["odd", "test"])
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needs)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: extras)
    assert only(packages.versions()).state == "good"
    odd, test = packages.extras()
    assert (odd.state, odd.advice) == ("note", "pip install 'astdistill[odd]'")
    assert "no-such-thing is not installed" in odd.text
    assert (test.state, test.text) == ("good", f"pytest {pytest.__version__}")
    needs[0] = "torch>=99"
    found = only(packages.versions())
    assert (found.state, "is not >=99" in found.text) == ("bad", True)
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: (_ for _ in ()).throw(importlib.metadata.PackageNotFoundError)
    )
    assert only(packages.versions()).state == "note"


def test_data_are_verified_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    for number, place in enumerate(f"{part}/{name}" for part in ("train", "test") for name in "ab"):
        (tmp_path / "pets" / place).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "pets" / place / "0.png")
    assert main(["doctor", "--json", "--verify-data", str(tmp_path / "pets")]) == 0
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["text"] == f"every byte read: 2 training images, fingerprint {fingerprint(tmp_path / 'pets')}"
    assert main(["doctor", "--json", "--verify-data", str(tmp_path / "pets"), str(tmp_path / "gone")]) == 1
    states = [finding["state"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert states == ["good", "bad"]


def fingerprint(folder: Path) -> str:
    return load_dataset(str(folder)).fingerprint
