"""Published distilled sets: listed, copied, measured again, and refused where they are damaged."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from problems import TINY, exit_code

import astdistill as ad
from astdistill.evaluation import PROTOCOLS, random_real
from astdistill.evaluation.scores import Taught
from astdistill.evaluation.teacher import TeacherInfo
from astdistill.interop import published
from astdistill.interop.reproduction import again, command

SETS = Path(__file__).parents[2] / "docs" / "sets"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one set and its scores, as `export` and `evaluate` leave them."""
    folder = tmp_path_factory.mktemp("made")
    digits = ad.load_dataset("digits", per_class=20)
    tiny = replace(random_real(digits, 1, 3), model=TINY, method="dm", augmentation="flip")
    tiny.save(folder / "synthetic.safetensors")
    words = ("--protocol", "mtt", "--epochs", "3", "--networks", "2", "--baselines", "random", "--quiet")
    assert exit_code("evaluate", str(folder), *words, "--out", str(folder / "found")) == 0
    shutil.copyfile(folder / "found" / "scores.json", folder / "scores.json")
    return folder


@pytest.fixture
def sets(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sets in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("sets").mkdir()
    shutil.copyfile(made / "synthetic.safetensors", "sets/digits-tiny.safetensors")
    shutil.copyfile(made / "scores.json", "sets/digits-tiny.scores.json")
    Path("sets/digits-tiny.png").write_bytes(b"a picture")
    return Path("sets")


def test_a_set_in_the_folder_is_listed_copied_and_measured_again(
    sets: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = ad.Scores.read(made)
    assert exit_code("get", "--zoo", str(sets)) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "digits-tiny" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    about = ["digits (20 images each)", "10 × 1", "2.6 kB", "hard"]
    assert cells == ["digits-tiny", *about, f"{scores.architecture[TINY].text} (MTT)"]

    assert exit_code("get", "digits-tiny", "--zoo", str(sets)) == 0
    shown = capsys.readouterr().out
    place = Path("runs/digits-tiny")
    assert place.joinpath("synthetic.safetensors").read_bytes() == (made / "synthetic.safetensors").read_bytes()
    assert place.joinpath("images.png").read_bytes() == b"a picture"
    typed = next(line for line in shown.splitlines() if line.startswith("Next:")).removeprefix("Next:").strip()
    card = place.joinpath("README.md").read_text()
    assert f"    {typed}\n" in card
    assert scores.architecture[TINY].text in card
    assert "distribution matching" in card

    assert exit_code(*shlex.split(typed)[1:], "--quiet") == 0
    (measured,) = place.glob("evaluation-*/scores.json")
    assert ad.Scores.read(measured) == scores


def test_in_python(sets: Path, made: Path) -> None:
    assert list(ad.zoo(sets)) == ["digits-tiny"]
    synthetic = ad.get("digits-tiny", sets)
    assert isinstance(synthetic, ad.Distilled)
    assert torch.equal(synthetic.images, ad.load(made).images)
    scores = ad.zoo(sets)["digits-tiny"].scores()
    assert scores is not None
    assert scores.mean == ad.Scores.read(made).mean
    (sets / "digits-tiny.scores.json").unlink()
    assert ad.zoo(sets)["digits-tiny"].scores() is None


def test_the_packages_own_sets_are_whole_and_have_cards(tmp_path: Path) -> None:
    assert published.sets_folder() == SETS
    own = ad.zoo()
    assert own["cifar10-ipc1-mtt"].scores() is not None
    for name, each in own.items():
        synthetic, scores = each.load(), each.scores()
        assert scores is None or command(synthetic, scores, tmp_path), f"no command measures {name} again"
        assert f"# {synthetic.data.source}" in each.card(tmp_path)
        assert each.path.stat().st_size < 2**21, (
            f"{name} has {each.path.stat().st_size} bytes; see SyntheticSet.compact"
        )


def test_a_wheel_has_them_inside(monkeypatch: pytest.MonkeyPatch, sets: Path) -> None:
    monkeypatch.setattr(published, "__file__", str(sets.parent.absolute() / "published.py"))
    assert list(ad.zoo()) == ["digits-tiny"]


def test_an_unknown_name_is_one_sentence_with_the_nearest(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("get", "digit-tini", "--zoo", str(sets)) == 2
    message = capsys.readouterr().err
    assert "There is no distilled set 'digit-tini'" in message
    assert "Did you mean 'digits-tiny'?" in message
    assert message.count("\n") == 1
    assert exit_code("get", "--zoo", "nowhere") == 2
    assert "There is no folder nowhere" in capsys.readouterr().err
    assert exit_code("get", "--out", "x") == 2
    assert "--out x was given, but no set" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_damage_is_one_sentence_and_hides_no_other_set(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (sets / "digits-tiny.safetensors").read_bytes()
    (sets / "broken.safetensors").write_bytes(whole[:-40])
    (sets / "altered.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shutil.copyfile(sets / "digits-tiny.safetensors", sets / "unsure.safetensors")
    (sets / "unsure.scores.json").write_text("{")
    for name in ("broken", "altered", "unsure"):
        assert exit_code("get", name, "--zoo", str(sets)) == 2
        message = capsys.readouterr().err
        assert str(sets / name) in message
        assert message.count("\n") == 1
    assert not Path("runs").exists()
    assert exit_code("get", "--zoo", str(sets)) == 0
    shown = capsys.readouterr().out
    assert all(f"[{number}] sets/" in shown for number in (1, 2, 3))
    assert "digits-tiny" in shown


def test_scores_of_another_set_are_refused(sets: Path) -> None:
    other = replace(ad.load(sets / "digits-tiny.safetensors"), method="mtt")
    other.save(sets / "digits-tiny.safetensors")
    with pytest.raises(ad.InputError, match=r"digits-tiny\.scores\.json holds the scores of another set"):
        ad.zoo(sets)["digits-tiny"].scores()


def test_a_set_on_the_hub_comes_by_its_name(
    sets: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def downloaded(repository: str, **settings: Any) -> str:
        asked.append((repository, settings))
        if repository == "me/nothing":
            return str(sets)
        if repository == "me/away":
            raise ConnectionError("no\nnetwork")
        return str(made)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", downloaded)
    assert exit_code("get", "hf:me/tiny@v2") == 0
    assert ad.load("runs/tiny").method == "dm"
    assert "astdistill evaluate runs/tiny --protocol mtt --epochs 3" in capsys.readouterr().out
    repository, settings = asked[0]
    assert (repository, settings["repo_type"], settings["revision"]) == ("me/tiny", "dataset", "v2")
    assert "synthetic.safetensors" in settings["allow_patterns"]
    assert torch.equal(ad.get("hf:me/tiny").images, ad.load(made).images)
    assert asked[-1][1]["revision"] is None
    assert exit_code("get", "hf:me/small@refs/pr/1") == 0
    assert ad.load("runs/small").method == "dm"
    for name, sentence in (("hf:me/nothing", "holds no synthetic.safetensors"), ("hf:me/away", "no network")):
        with pytest.raises(ad.InputError, match=sentence):
            ad.get(name)


def test_the_command_says_what_differs_from_the_protocol(made: Path) -> None:
    synthetic, scores = ad.load(made), ad.Scores.read(made)
    ours = scores.recipe
    assert command(synthetic, scores, "a") == (
        "astdistill evaluate a --protocol mtt --epochs 3 --networks 2 --baselines random"
    )
    others = scores.architecture[TINY]
    many = scores.replace(architecture={TINY: others, "mlp": others}, baselines={}, recipe=ours.replace(lr=0.5))
    assert command(synthetic, many, "a b") == (
        f"astdistill evaluate 'a b' --protocol mtt --epochs 3 --lr 0.5 --networks 2 --architectures {TINY} mlp --baselines"
    )
    rded = PROTOCOLS["rded"].for_set(1, 10)
    assert "--protocol rded --networks" in command(synthetic, scores.replace(recipe=rded), "a")
    teacher = TeacherInfo(network=TINY, epochs=3, temperature=4.0)
    taught = Taught(teacher=teacher, label_bytes=4, image_bytes=4, row=others)
    assert command(synthetic, scores.replace(taught=taught), "a").endswith("--baselines random teacher --temperature 4")
    own = scores.replace(recipe=ours.replace(batch=7))
    assert command(synthetic, own, "a") == ""
    assert "recipe=scores.recipe, seeds=2)" in again(synthetic, own, "a")
    seeded = many.replace(seed=7)
    assert f"--networks 2 --architectures {TINY} mlp --seed 7 --baselines" in command(synthetic, seeded, "a")
    other = seeded.replace(recipe=own.recipe, split="validation")
    assert f"seeds=2, model=['{TINY}', 'mlp'], seed=7, split='validation')" in again(synthetic, other, "a")
    assert "Not evaluated yet" in again(synthetic, None, "a")
