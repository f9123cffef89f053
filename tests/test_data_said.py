"""What was read of the data is said before anything is spent, on the page, in provenance.json, and by each verb."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from problems import exit_code

from astdistill.data.description import Description
from astdistill.experiment.work import Speed
from astdistill.report.page.page import save_page
from astdistill.report.run import read_run
from astdistill.runtime.progress import Output

TINY = [
    "--experts.count", "1", "--method.expert.epochs", "3", "--model", "convnet-d1-w4", "--distill.iterations", "2",
    "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "2", "--evaluation.recipe.epochs", "2",
    "--evaluation.recipe.full-epochs", "1", "--evaluation.networks", "1", "--workers", "1", "--ipc", "1",
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of photos, of which one has more than the others together, and a file that is no picture."""
    draw = np.random.default_rng(0)
    for part, counts in {"train": (24, 6, 6), "test": (12, 6, 3)}.items():
        for name, count in zip(("cats", "dogs", "owls"), counts, strict=True):
            folder = tmp_path / "here" / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "here" / "photos" / "train" / "cats" / "notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Output, "quiet", False)
    return tmp_path / "here" / "photos"


def words(photos: Path) -> list[str]:
    return ["cifar100-ten-ipc10", "--data", str(photos), "--data.size", "16", *TINY]


def test_run_says_what_was_read_first_and_keeps_it(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", *words(photos), "--out", "made") == 0
    shown = capsys.readouterr().err
    description = read_run("made").description
    assert description is not None
    assert description.text() in shown
    assert shown.index("Data: ") < shown.index("training experts")
    known = json.loads(Path("made/provenance.json").read_text())["data_read"]
    assert Description.model_validate(known) == description
    assert [each["train"] for each in known["classes"]] == [24, 6, 6]
    assert [each["test"] for each in known["classes"]] == [12, 6, 3]
    assert "notes.txt" in " ".join(known["left_out"])
    assert "class cats has 67% of the training images" in " ".join(known["warnings"])
    page = Path("made/report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="data">') :]
    section = section[: section.index("</section>")]
    for said in ("<h2>Data</h2>", "notes.txt", "67% of the training images", ">cats</th>", ">24</td>", ">photos</td>"):
        assert said in section
    assert str(photos) not in page
    scores = json.loads(Path("made/scores.json").read_text())
    assert scores["majority"]["mean"] == pytest.approx(100 * 12 / 21)
    assert "majority class" in page
    assert "balanced accuracy" in page
    # The same again adds nothing to the provenance.
    assert exit_code("run", *words(photos), "--out", "made") == 0
    assert json.loads(Path("made/provenance.json").read_text())["resumed"] == []


def test_a_run_of_an_earlier_version_has_a_page_without_the_section(photos: Path) -> None:
    assert exit_code("distill", *words(photos), "--out", "made", "--quiet") == 0
    path = Path("made/provenance.json")
    known = json.loads(path.read_text())
    del known["data_read"]
    path.write_text(json.dumps(known))
    save_page(["made"], "page.html")
    assert 'id="data"' not in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["experts", "distill"])
def test_other_verbs_say_it_too_and_quiet_ones_only_what_is_odd(
    verb: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(verb, *words(photos)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "does not use" not in line]
    assert lines[0].startswith(("Data: ", "Decoding"))
    assert exit_code(verb, *words(photos), "--quiet") == 0
    shown = capsys.readouterr().err
    assert "Data: " not in shown
    assert "warning" in shown


def test_dry_run_says_it_first_and_evaluate_in_a_line(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Speed, "_measured", lambda self, step: 1.0)
        assert exit_code("run", *words(photos), "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Data: ")
    assert "36 training, 21 test; 16×16 pixels" in shown
    assert shown.index("warning") < shown.index("What:")
    assert exit_code("distill", *words(photos), "--out", "made", "--quiet") == 0
    capsys.readouterr()
    assert exit_code("evaluate", "made", "--epochs", "1", "--networks", "1", "--baselines", "random") == 0
    assert "Data: photos: 36 training, 21 test images of 3 classes, 16×16 pixels" in capsys.readouterr().err


def test_data_known_by_name_are_not_read_for_an_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Speed, "_measured", lambda self, step: 1.0)
    assert exit_code("run", "cifar100-ten-ipc10", "--model", "convnet-d3-w8", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Data: cifar100, known by name; not read")
    assert "about 5,000 training, 1,000 test; 32×32 pixels" in shown
