"""What the page says, against the numbers in the run's own files; how it looks is for the browser's test."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from astdistill.cli.main import main
from astdistill.data.dataset import DataConfig
from astdistill.data.loading import load_dataset
from astdistill.data.preprocessing import Preprocessing
from astdistill.data.synthetic import SyntheticSet, load, one_hot
from astdistill.distillation.snapshots import read_course
from astdistill.evaluation.continual import Continual, continual_table
from astdistill.evaluation.dd_ranking import Ranking, ranking_table
from astdistill.evaluation.scores import Scores
from astdistill.experts.store import Segment
from astdistill.methods.matching import IntermediateMatchingLoss
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.registry import find_method
from astdistill.report.page import content, head, mistakes, numbers
from astdistill.report.page.page import rendered, renew_page, save_page
from astdistill.report.run import RunReader, read_run, unmoved_loss
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import read_lines, write_json
from astdistill.runtime.run_dir import RunDir


def page(*folders: Path) -> str:
    file = folders[0].parent / "page.html"
    save_page(folders, file)
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(made: Path) -> str:
    """The page of the small run."""
    return page(made)


def test_the_page_needs_no_other_file_and_no_network(text: str) -> None:
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|@import (\S*)""", text)
    found = {address.strip("\"'") for each in addresses for address in each if address}
    assert all(each.startswith(("data:", "#")) or each == "${address}" for each in found)
    assert any(each.startswith("data:image/webp") for each in found)


def test_the_same_run_gives_the_same_bytes(made: Path, text: str) -> None:
    assert page(made) == text


def test_the_headline_is_the_score_beside_its_baselines(made: Path, text: str) -> None:
    scores = Scores.read(made)
    entry = next(iter(scores.architecture.values()))
    assert f"<strong>{entry.mean:.1f}<" in text
    bars = {bar.kind: bar for bar in content.bars(read_run(made))}
    assert [bar.name for bar in content.bars(read_run(made)) if bar.kind == "published"] == ["best peer"]
    assert bars["random"].value == pytest.approx(statistics.fmean(scores.baselines["random"].final))
    assert bars["published"].value == 26.1
    assert "Best peer: ATT (arXiv 2407.14245)." in text
    assert "Protocol MTT: 3 epochs" in text


def test_a_name_with_markup_stays_text(text: str) -> None:
    assert "small &lt;b&gt;" in text
    assert "small <b>" not in text


def test_steps_experts_and_costs_are_those_of_the_files(made: Path, text: str) -> None:
    lines = read_lines(made / "metrics.jsonl")
    assert f"12 outer steps, 0 skipped; η went from {lines[0]['lr']:.4g} to {lines[-1]['lr']:.4g}." in text
    assert "momentum 0.9 (n = 2)" in text
    assert "plain SGD" not in text  # experts beside the run's own
    clock = read_lines(made / "clock.jsonl")
    costs = content.costs(read_run(made))
    assert costs is not None
    assert [row[0] for row in costs.rows] == ["distillation", "one outer step (median)"]
    steps = [line["seconds"] for line in clock if "iteration" in line]
    assert len(steps) == 12
    assert sum(steps) <= next(line["seconds"] for line in clock if "stage" in line)


def test_classes_and_confusions_are_counted_right(made: Path) -> None:
    entry = next(iter(Scores.read(made).architecture.values()))
    kept = [each for each in entry.by_class if each is not None]
    found = dict(mistakes.accuracies(entry, ("a", "b_c", "d")))
    for label, name in enumerate(("a", "b c", "d")):
        assert found[name] == pytest.approx(statistics.fmean([float(each[label] or 0) for each in kept]))
    assert list(found) == ["a", "b c", "d"]
    for each in mistakes.confusions(entry, ("a", "b", "d")):
        row, column = ("a", "b", "d").index(each.true), ("a", "b", "d").index(each.predicted)
        assert row != column
        assert entry.counts is not None
        assert each.share == pytest.approx(100 * entry.counts[row][column] / sum(entry.counts[row]))


def test_the_gallery_holds_every_frame_and_soft_label(made: Path, text: str) -> None:
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)[0])
    assert data["captions"] == [
        "initial, iteration 0",
        "iteration 5",
        "iteration 10",
        "chosen on held-out images, iteration 12",
    ]
    assert len(data["sheets"]) == 3
    wanted = (100 * load(made).probabilities).round().int()
    for image, label in enumerate(data["soft"][-1]):
        assert label[0][1] == int(wanted[image].max())
        assert [percent for _, percent in label] == sorted((percent for _, percent in label), reverse=True)


def test_the_frames_are_the_run_itself(made: Path) -> None:
    frames = read_run(made).frames
    assert [frame.iteration for frame in read_course(made)] == [0, 5, 10]
    assert frames[-1].iteration == 12
    assert torch.equal(frames[-1].pixels, load(made).pixels().mul(255).round().byte())


def test_without_a_choice_the_last_frame_is_the_final_one(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    (tmp_path / "run" / "last.safetensors").unlink()
    assert '"final, iteration 12"' in page(tmp_path / "run")


def test_several_runs_stand_side_by_side(made: Path, tmp_path: Path) -> None:
    other = tmp_path / made.name
    shutil.copytree(made, other)
    config = json.loads((other / "config.json").read_text())
    config["distill"]["lr_img"] = 7.0
    (other / "config.json").write_text(json.dumps(config))
    text = page(other, made)
    assert text.count('class="hero"') == text.count('id="gallery-') == 2
    assert "different data" not in text
    differing = re.findall(r'<tr class="differs"><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', text)
    assert ("distill.lr_img", "7.0", "1000.0") in differing
    assert {name for name, *_ in differing} == {"distill.lr_img"}
    for run in (made, other):  # two runs of one name are told apart
        assert f"{run.parent.name}/{run.name}" in text


def test_runs_on_different_data_say_so(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    write_json(tmp_path / "run" / "provenance.json", {"data": "0123456789"})
    text = page(made, tmp_path / "run")
    own = load(made).fingerprint[:8]
    assert "These runs were made on different data: small on blobs, fingerprint " + own in text
    assert "run on blobs, fingerprint 01234567. Their accuracies" in text


@pytest.mark.parametrize(
    ("source", "kept", "name"),
    [
        ("/data/cifar100", {}, "CIFAR-100"),
        ("cifar100", {"first_classes": 2, "per_class": 5}, "CIFAR-100 (2 classes, 5 images each)"),
        ("photos/of <mine>", {}, "of <mine>"),
    ],
)
def test_data_are_called_as_papers_call_them(source: str, kept: dict[str, int], name: str) -> None:
    assert head.data_name(few(source, **kept)) == name


def few(source: str, **kept: int) -> SyntheticSet:
    """Two images of each of two classes."""
    return SyntheticSet(
        torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), one_hot(torch.tensor([0, 0, 1, 1]), 2), torch.tensor(0.01),
        ("=a", "b"), Preprocessing.none((1, 8, 8)), DataConfig.model_validate({"source": source, **kept}), "convnet-d1-w4",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "name"),
    [("ast", "AST"), ("datm-as-released", "DATM as released"), ("dm", "DM"), ("my-method", "my-method"), ("", "")],
)
def test_methods_are_called_as_papers_call_them(method: str, name: str) -> None:
    assert head.method_name(method) == name


def test_the_head_has_date_duration_iterations_and_experts(made: Path, text: str, tmp_path: Path) -> None:
    facts = dict(head.facts(read_run(made)))
    assert facts["iterations"] == "12"
    experts = read_run(made).experts
    assert experts is not None
    last = [curve.test_accuracy[-1] for curve in experts.curves]
    assert facts["experts"] == f"2, test accuracy {statistics.fmean(last):.1f} ± {statistics.stdev(last):.1f} %"
    assert "<dt>experts</dt><dd>2, test accuracy" in text
    shutil.copytree(made, tmp_path / "run")
    stages = [("experts", 60, "2026-03-09T23:59:59+00:00"), ("evaluation", 75, "2026-03-11T00:00:01+00:00")]
    lines = [json.dumps({"stage": name, "seconds": seconds, "ended": ended}) for name, seconds, ended in stages]
    (tmp_path / "run" / "clock.jsonl").write_text("\n".join(lines))
    facts = dict(head.facts(read_run(tmp_path / "run")))
    assert (facts["date"], facts["duration"]) == ("11 March 2026", "2.2 min")
    (tmp_path / "run" / "clock.jsonl").write_text('{"stage": "experts", "seconds": 3}')  # of an earlier version
    assert "date" not in dict(head.facts(read_run(tmp_path / "run")))


def test_the_numbers_are_those_of_the_files(made: Path) -> None:
    rows = list(csv.DictReader(numbers.numbers(read_run(made)).splitlines()))
    lines = read_lines(made / "metrics.jsonl")
    for name, field in (("loss", "loss"), ("learning rate", "lr")):
        found = [(int(row["at"]), float(row["value"])) for row in rows if row["quantity"] == name]
        assert found == [(line["iteration"], line[field]) for line in lines]
    entry = next(iter(Scores.read(made).architecture.values()))
    (own,) = (row for row in rows if row["of"].startswith("synthetic, ") and row["value"] == str(entry.mean))
    assert (float(own["standard deviation"]), int(own["n"])) == (entry.std, entry.n)
    counts = [int(row["value"]) for row in rows if row["quantity"] == "images by true and predicted class"]
    assert counts == [count for row in entry.counts or () for count in row if count]
    tested = [float(row["value"]) for row in rows if row["quantity"] == "expert's test accuracy"]
    experts = read_run(made).experts
    assert experts is not None
    assert tested == [value for curve in experts.curves for value in curve.test_accuracy]


def test_a_long_run_is_thinned_in_the_csv_and_no_name_is_a_formula(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    lines = [json.dumps({"iteration": number, "loss": 1.0, "lr": 0.01}) for number in range(12_001)]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines))
    config = json.loads((tmp_path / "run" / "scores.json").read_text())
    config["baselines"]["=1+1"] = config["baselines"]["random"]
    write_json(tmp_path / "run" / "scores.json", config)
    rows = list(csv.reader(numbers.numbers(read_run(tmp_path / "run")).splitlines()))
    assert [row[2] for row in rows if row[0] == "loss"][:3] == ["0", "3", "6"]
    assert not [cell for row in rows for cell in row if cell.startswith("=")]
    assert [row for row in rows if row[1] == "'=1+1"]


def test_the_snippet_trains_and_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_dataset("digits")
    chosen = torch.cat([data.train.of_class(label)[:1] for label in range(10)])
    made = SyntheticSet(
        data.train.batch(chosen), one_hot(data.train.labels[chosen], 10), torch.tensor(0.05),
        data.classes, data.preprocessing, data.config, "convnet-d1-w4",
    )  # fmt: skip
    made.save(tmp_path / "it's" / "synthetic.safetensors")
    shown = content.snippet(read_run("it's"))
    assert "epochs=1000)" in shown
    exec(shown.replace("epochs=1000", "epochs=20"), {})
    assert 15 < float(capsys.readouterr().out.splitlines()[-1]) < 100  # chance is 10


def test_the_snippet_of_a_set_from_memory_trains(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made.parent)
    namespace: dict[str, Any] = {}
    exec(content.snippet(read_run(made)), namespace)
    assert not namespace["network"].training
    assert "load_dataset" not in content.snippet(read_run(made))


@pytest.mark.parametrize(
    ("name", "loss"), [("mtt", 1), ("ast", 3), ("ast, adaptive", 2), ("att", 1), ("datm", 1), ("dm", None)]
)
def test_the_line_of_no_progress_is_the_loss_of_a_student_that_does_not_move(name: str, loss: float | None) -> None:
    method = find_method(name.split(",")[0])
    if name.endswith("adaptive"):
        method = method.replace(loss=IntermediateMatchingLoss(beta="adaptive"))
    if isinstance(method.step, TrajectoryMatching):
        method = method.replace(step=method.step.replace(expert_epochs=3))
    assert unmoved_loss(method) == loss
    if loss is None:
        return
    rows = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    segment = Segment(0, 0, rows[0], rows[1:])
    objective = method.loss(segment, rows[0], 6)
    assert float(objective([rows[0]] * len(objective.at))) == pytest.approx(loss)


def test_textures_are_called_so(tmp_path: Path) -> None:
    SyntheticSet(
        torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)), one_hot(torch.tensor([0, 0, 1, 1]), 2), torch.tensor(0.01),
        ("a", "b"), Preprocessing.none((1, 8, 8)), DataConfig(source="digits"), "convnet-d1", "hard", canvas=2, canvas_samples=3,
    ).save(tmp_path / "tiles" / "synthetic.safetensors")  # fmt: skip
    text = page(tmp_path / "tiles")
    assert "<h1>Digits · 2 textures per class</h1>" in text
    assert "Textures, 2 times as high and wide as an image; networks see 3 random crops of each in a step." in text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/bin/astdistill", "run", "a b"], "astdistill run 'a b'"),
        (["lib/astdistill/__main__.py", "demo"], "astdistill demo"),
        (["x.py"], ""),
    ],
)
def test_the_command_that_made_a_run_is_shown(arguments: list[str], shown: str, tmp_path: Path) -> None:
    write_json(tmp_path / "provenance.json", {"arguments": arguments})
    assert content.command(RunReader.of(tmp_path)) == shown


def test_what_is_missing_is_named_with_its_command(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone").mkdir()
    shutil.copy(made / "synthetic.safetensors", tmp_path / "alone")
    text = page(tmp_path / "alone")
    assert "astdistill evaluate alone" in text
    assert "no log of its distillation" in text
    assert '<section id="course">' not in text
    (tmp_path / "unfinished").mkdir()
    shutil.copy(made / "metrics.jsonl", tmp_path / "unfinished")
    text = page(tmp_path / "unfinished")
    assert "type its command again to resume it" in text
    assert '<section id="course">' in text
    assert '<section id="images">' not in text


def test_a_later_evaluation_beside_the_set_is_shown(made: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "evaluation-later").mkdir(parents=True)
    shutil.copy(made / "synthetic.safetensors", tmp_path / "run")
    shutil.copy(made / "scores.json", tmp_path / "run" / "evaluation-later")
    entry = next(iter(Scores.read(made).architecture.values()))
    assert f"<strong>{entry.mean:.1f}<" in page(tmp_path / "run")


def test_ranking_and_arriving_classes_are_those_of_the_files(made: Path, text: str, tmp_path: Path) -> None:
    ranking, arriving = Ranking.read(made / "ranking.json"), Continual.read(made / "continual.json")
    for row in (*ranking_table(ranking).rows, *continual_table(arriving).rows):
        assert all(f">{cell}</t" in text for cell in row)
    assert text.count('aria-label="Accuracy on the classes seen after each step"') == 1
    shutil.copytree(made, tmp_path / "run")
    for name in ("ranking.json", "continual.json"):
        (tmp_path / "run" / name).unlink()
    shorter = page(tmp_path / "run")
    assert '<section id="ranking">' not in shorter
    assert '<section id="arriving">' not in shorter
    for name in ("ranking.json", "continual.json"):
        (tmp_path / "run" / name).write_text('{"model": 3}')
        with pytest.raises(InputError, match=rf"{name} does not hold .*; move it away and evaluate again"):
            rendered([read_run(tmp_path / "run")])
        (tmp_path / "run" / name).unlink()


def test_a_page_that_fails_loses_nothing_and_says_so(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    assert renew_page(run) == RunDir(run).page
    before = RunDir(run).page.read_bytes()
    (run / "experts.json").write_text("[]")
    assert renew_page(run) is None
    told = " ".join("".join(capsys.readouterr()).split())
    assert "could not be written" in told
    assert "the results are kept" in told
    assert RunDir(run).page.read_bytes() == before


def test_the_run_of_an_evaluation_is_the_folder_of_its_set(made: Path, tmp_path: Path) -> None:
    homes = [RunDir(folder).home() for folder in (made, made / "evaluation-later")]
    assert [home and home.folder for home in homes] == [made, made]
    (tmp_path / "config.json").write_text("{}")  # anybody's project has one
    assert RunDir(tmp_path / "evaluation-later").home() is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Name at least one run folder"),
        (["nowhere"], "There is no folder nowhere"),
        (["empty"], "empty holds no run"),
        (["above"], "above is no run but holds some; name them: astdistill report above/small"),
        (["above/small", "above/small/"], "was named twice"),
        (["above/small", "--out", "empty"], "--out empty is a folder"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    words: list[str],
    sentence: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(made, tmp_path / "above" / "small")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *words]) == 2
    message = capsys.readouterr().err
    assert sentence in message.replace("\n", " ")
    assert "Traceback" not in message
    assert sorted(tmp_path.rglob("*")) == before


def test_the_verb_writes_beside_one_run_and_here_for_several(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(made, tmp_path / name)
    assert main(["report", "one"]) == 0
    assert (tmp_path / "one" / "report.html").exists()
    assert "Open: one/report.html" in capsys.readouterr().out
    assert main(["report", "one", "two"]) == 0
    assert (tmp_path / "report.html").exists()


def test_template_style_and_script_are_in_the_package() -> None:
    here = resources.files("astdistill.report.page")
    for name in ("base.html", "macros.html", "page.html", "tuning.html", "page.css", "page.js"):
        assert (here / name).is_file()
