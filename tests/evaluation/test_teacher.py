"""Real images with a teacher's soft labels: whose, what they take, and never in a table of hard labels."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import TINY

from astdistill.cli.main import main
from astdistill.cli.options import parse
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet, load
from astdistill.evaluation.protocol import MTT_PROTOCOL, PROTOCOLS
from astdistill.evaluation.rows import baseline_row, check_taught, random_real
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import Scores, table, taught_table
from astdistill.evaluation.teacher import Teacher
from astdistill.experiment.config import Experiment, ExpertSettings, check_numbers, expert_epochs
from astdistill.experiment.pipeline import obtain_experts, obtain_teacher
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import train_experts
from astdistill.methods.registry import find_method
from astdistill.models.registry import build_model
from astdistill.report.compare import compared, read_finished
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import write_json
from astdistill.runtime.seeds import derive

RECIPE = MTT_PROTOCOL.replace(epochs=2, augmentation="flip")


@pytest.fixture
def teacher(blobs: Dataset, tmp_path: Path) -> Teacher:
    store = train_experts(blobs, model=TINY, recipe=ExpertRecipe(epochs=3), count=1, store=tmp_path / "store")
    return Teacher.of(store, temperature=2.0)


def test_labels_are_the_logits_of_the_last_row_over_the_temperature(
    teacher: Teacher, blobs: Dataset, tmp_path: Path
) -> None:
    store = train_experts(blobs, model=TINY, recipe=ExpertRecipe(epochs=3), count=1, store=tmp_path / "store")
    network, at = build_model(TINY, blobs.shape, 3), 0
    row = store.rows(0, 3, 4)[0]
    for part in network.parameters():
        part.data = row[at : at + part.numel()].view(part.shape)
        at += part.numel()
    images = random_real(blobs, 2, 0).images
    with torch.no_grad():
        torch.testing.assert_close(teacher.labels(images), network.eval()(images) / 2, rtol=1e-4, atol=1e-5)
    assert (teacher.info.network, teacher.info.epochs) == (TINY, 3)
    assert teacher.info.accuracy == store.curves()[0].test_accuracy[2]
    assert teacher.info.text.startswith(f"{TINY} (3 epochs, test ")
    assert teacher.info.text.endswith(" %, temperature 2)")


def test_a_store_that_is_read_up_to_an_epoch_has_a_teacher_from_its_last(blobs: Dataset, tmp_path: Path) -> None:
    """As where another run has trained the same experts further."""
    words = {"model": TINY, "recipe": ExpertRecipe(epochs=3), "count": 1, "store": tmp_path / "store"}
    whole = Teacher.of(train_experts(blobs, **words))
    shorter = train_experts(blobs, **words, stop_after=2)
    assert (shorter.epochs, len(shorter.curves()[0].test_accuracy)) == (2, 2)
    assert Teacher.of(shorter).info == whole.info
    assert whole.info.accuracy is not None
    assert whole.info.replace(accuracy=None).text == f"{TINY} (3 epochs, temperature 1)"


def test_the_images_are_those_of_the_random_row(teacher: Teacher, blobs: Dataset) -> None:
    taught = baseline_row("teacher", TINY, 2, blobs, RECIPE, 5, teacher)
    plain = baseline_row("random", TINY, 2, blobs, RECIPE, 5)
    assert callable(taught.source)
    assert callable(plain.source)
    for k in (0, 3):
        one, other = taught.source(k), plain.source(k)
        assert isinstance(one, SyntheticSet)
        assert isinstance(other, SyntheticSet)
        assert torch.equal(one.images, other.images)
        assert one.labels == "soft"
    assert taught.content != plain.content
    with pytest.raises(InputError, match="none was given"):
        baseline_row("teacher", TINY, 2, blobs, RECIPE, 5)
    with pytest.raises(InputError, match="trained on other data"):
        baseline_row("teacher", TINY, 2, blobs, RECIPE, 5, replace(teacher, data="another"))


def evaluated(teacher: Teacher, blobs: Dataset, folder: Path) -> Scores:
    found = replace(random_real(blobs, 2, derive(0, "x")), model=TINY, method="ast")
    found.save(folder / "synthetic.safetensors")
    write_json(folder / "config.json", {"name": "cell"})
    names = ("random", "teacher")
    return evaluate_all(found, blobs, RECIPE, seeds=2, baselines=names, out=folder, teacher=teacher, workers=1)


def test_they_stand_in_tables_of_their_own(teacher: Teacher, blobs: Dataset, tmp_path: Path) -> None:
    scores = evaluated(teacher, blobs, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores.baselines) == {"random"}
    assert written["taught"]["teacher"]["temperature"] == 2.0
    assert written["taught"]["label_bytes"] == 6 * 3 * 4
    assert written["taught"]["image_bytes"] == 6 * 3 * 8 * 8 * 4
    assert Scores.read(tmp_path / "run") == scores
    assert len(table(scores).rows) == 2
    shown = taught_table(scores)
    assert shown is not None
    assert shown.rows[0][:2] == (teacher.info.text, "72 B")
    assert "a teacher's soft labels" in shown.caption
    assert taught_table(scores.replace(taught=None)) is None
    assert "taught" not in scores.replace(taught=None).to_json()

    hard, soft = compared([read_finished(tmp_path / "run")])
    assert (hard.title, soft.title) == ("Hard labels", "A teacher's soft labels")
    (row,) = (dict(zip([column.name for column in soft.columns], row, strict=True)) for row in soft.rows)
    assert teacher.info.text in row["method"]
    assert row["stored"] == "4.7 kB"
    assert row["n"] == "2"


def test_a_run_and_evaluate_find_their_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "digits-ipc1", "--model", "convnet-d1-w4", "--distill.iterations", "1", "--experts.count", "1"]
    words += ["--data.per-class", "10"]
    words += ["--evaluation.recipe.epochs", "1", "--evaluation.networks", "1", "--out", "runs/short"]
    main([*words, "--evaluation.baselines", "teacher", "--workers", "1"])
    first = Scores.read(tmp_path / "runs/short").taught
    assert first is not None
    assert first.teacher.temperature == 1.0
    assert "random real images labelled by" in (tmp_path / "runs/short/report.html").read_text()
    capsys.readouterr()
    words = ["evaluate", "runs/short", "--epochs", "1", "--networks", "1", "--baselines", "teacher", "--workers", "1"]
    main([*words, "--temperature", "4", "--out", "again"])
    second = Scores.read(tmp_path / "again").taught
    assert second is not None
    assert second.teacher == first.teacher.replace(temperature=4.0)
    assert "temperature 4" in capsys.readouterr().out
    assert load("runs/short").labels == "hard"


def test_a_teacher_is_trained_to_the_end_where_the_run_stops_its_experts_early(blobs: Dataset, tmp_path: Path) -> None:
    """Whether or not something else has trained the same experts further before."""
    method = find_method("mtt").replace(expert=ExpertRecipe(epochs=4))
    method = method.replace(step=method.step.replace(syn_steps=1, expert_epochs=1, max_start_epoch=1))
    experts = ExpertSettings(count=2, store=tmp_path / "experts")
    experiment = Experiment(name="early", model=TINY, method=method, experts=experts)
    assert expert_epochs(experiment) == 1
    obtain_experts(experiment, blobs)
    found = obtain_teacher(experiment, blobs)
    whole = train_experts(blobs, model=TINY, recipe=method.recipe, count=1, store=tmp_path / "other")
    assert found.info.epochs == 4
    assert found.content == Teacher.of(whole).content
    store = obtain_experts(experiment, blobs)
    assert [store.trained_epochs(expert) for expert in (0, 1)] == [4, 1]


def test_where_a_teacher_labels_every_row_there_is_no_row_of_that_name(
    teacher: Teacher, blobs: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'teacher' was given under the protocol RDED, .* 'random' is that row"):
        check_taught(PROTOCOLS["rded"], ("random", "teacher"))
    check_taught(PROTOCOLS["rded"], ("random",))
    check_taught(PROTOCOLS["mtt"], ("random", "teacher"))
    with pytest.raises(InputError, match="under the protocol RDED"):
        check_numbers(
            parse("run", ["digits-ipc1", "--protocol", "rded", "--evaluation.baselines", "teacher"]).experiment
        )


def test_a_teacher_of_other_data_is_refused_where_it_labels_every_row(
    teacher: Teacher, blobs: Dataset, tmp_path: Path
) -> None:
    found = replace(random_real(blobs, 2, 0), model=TINY)
    taught, other = RECIPE.replace(temperature=4.0), replace(teacher, data="another")
    with pytest.raises(InputError, match=r"trained on other data \(another\) .*no baseline 'teacher', and a protocol"):
        evaluate_all(found, blobs, taught, seeds=1, baselines=(), out=tmp_path / "run", teacher=other)
    assert not (tmp_path / "run").exists()
    assert evaluate_all(found, blobs, RECIPE, seeds=1, baselines=(), teacher=other, workers=1).online is None


def test_a_temperature_without_a_teacher_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "runs/none", "--temperature", "4"]) == 2
    assert "--temperature 4 was given, but no row has a teacher's labels" in capsys.readouterr().err


def test_a_teacher_that_has_labelled_is_sent_to_workers_without_its_network(teacher: Teacher, blobs: Dataset) -> None:
    images = random_real(blobs, 2, 0).images
    labels = teacher.labels(images)
    assert "_model" in vars(teacher), "it is built once"
    sent = pickle.loads(pickle.dumps(teacher))
    assert "_model" not in vars(sent)
    assert torch.equal(sent.labels(images), labels)
