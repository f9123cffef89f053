"""Scores belong to one set, and no command replaces what it did not write: another run's table, a larger table of the
same set, a page, a note or a file of settings."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from desk import RUN, contents
from safetensors.torch import save_file

from astdistill.cli.main import main
from astdistill.cli.table_folder import TableFolder, TableRequest, choose_folder
from astdistill.data.synthetic import load
from astdistill.evaluation.protocol import MTT_PROTOCOL, PROTOCOLS
from astdistill.evaluation.scores import RowScores, Scores
from astdistill.report.current_scores import outdated
from astdistill.report.run import read_run
from astdistill.runtime.files import stated_digests
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("desk_of_a_run")
EVALUATE = ("evaluate", "made", "--epochs", "1", "--quiet")
LONGER = (*RUN, "--distill.iterations", "5", "--out", "made")


def test_scores_of_a_shorter_run_are_not_those_of_the_longer_one(capsys: pytest.CaptureFixture[str]) -> None:
    before = load("made").images
    assert main(("distill", *LONGER[1:])) == 0
    assert not torch.equal(load("made").images, before)
    sentence = "are of an earlier set than the one in the run now; evaluate again with: astdistill evaluate made"
    capsys.readouterr()
    assert main(("compare", "made")) == 2
    assert sentence in capsys.readouterr().err
    assert main(("watch", "made", "--once")) == 0
    assert "are of an earlier set" in " ".join(capsys.readouterr().out.split())
    assert main(("report", "made")) == 0
    page = Path("made/report.html").read_text(encoding="utf-8")
    assert sentence in page
    assert "test accuracy of" not in page
    assert main(("export", "made", "--format", "huggingface", "--out", "card")) == 0
    assert sentence in capsys.readouterr().err
    assert "No network has been evaluated yet." in Path("card/README.md").read_text(encoding="utf-8")
    assert not Path("card/scores.json").exists()

    assert main((*EVALUATE, "--networks", "1", "--baselines")) == 0
    assert main(("compare", "made", "--format", "markdown")) == 0
    assert "Protocol MTT: 1 epoch (" in capsys.readouterr().out
    assert main(("watch", "made", "--once")) == 0
    assert "are of an earlier set" not in " ".join(capsys.readouterr().out.split())
    assert sentence not in Path("made/report.html").read_text(encoding="utf-8")
    assert main(("export", "made", "--format", "huggingface", "--out", "card2")) == 0
    figure = json.loads(Path("made/evaluation-mtt-1-epochs/scores.json").read_text())["architecture"]
    assert json.loads(Path("card2/scores.json").read_text())["architecture"] == figure
    Path("made/scores.json").rename("earlier.json")
    assert main(("export", "made", "--format", "huggingface", "--out", "card3")) == 0
    assert json.loads(Path("card3/scores.json").read_text())["architecture"] == figure
    Path("earlier.json").rename("made/scores.json")
    assert main(LONGER) == 0
    assert not outdated(RunDir("made"), [Path("made/synthetic.safetensors")])


@pytest.mark.parametrize("tensor", ["images", "targets", "lr"])
def test_each_tensor_that_networks_learn_from_counts(tensor: str) -> None:
    before = load("made")
    after = replace(before, **{tensor: getattr(before, tensor) * 2})
    after.save(Path("changed.safetensors"))
    assert stated_digests(Path("changed.safetensors")).items() >= after.digests.items()
    assert {name for name, digest in after.digests.items() if digest != before.digests[name]} == {tensor}
    sets = [Path("changed.safetensors"), Path("made/theirs.safetensors"), Path("made/cut.safetensors")]
    save_file({"x": torch.zeros(2)}, sets[1])
    sets[2].write_bytes(b"cut")
    assert outdated(RunDir("made"), sets)
    assert not outdated(RunDir("made"), sets[1:])
    assert not outdated(RunDir("made"), [*sets, Path("made/synthetic.safetensors")])


def test_scores_are_of_the_set_whose_learning_rate_was_searched() -> None:
    assert main((*EVALUATE, "--networks", "1", "--baselines", "--lr", "search")) == 0
    (place,) = Path("made").glob("evaluation-*")
    assert json.loads((place / "scores.json").read_text())["rates"]
    assert not outdated(RunDir(place), [Path("made/synthetic.safetensors")])


def test_scores_that_nobody_can_check_are_trusted() -> None:
    """As those of earlier versions, and where a set is no file that astdistill wrote."""
    assert main(("distill", *LONGER[1:])) == 0
    file, sets = Path("made/scores.json"), [Path("made/synthetic.safetensors")]
    scores = json.loads(file.read_text())
    assert outdated(RunDir("made"), sets)
    scores["subject"]["digests"] = {}
    file.write_text(json.dumps(scores))
    assert main(("compare", "made")) == 0
    for lost in ("{}", '{"subject": null}', '{"subject": {"digests": [{}]}}', "no JSON"):
        file.write_text(lost)
        assert not outdated(RunDir("made"), sets)
    Path("made/synthetic.safetensors").write_bytes(b"other bytes")
    file.write_text(json.dumps(scores))
    assert not outdated(RunDir("made"), sets)


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("made", "--out made is the folder of a run, whose scores would be replaced; leave --out out, or name a new"),
        ("other", "--out other holds another run or set (config.json), whose scores would be replaced"),
        ("other/again", "--out other/again lies in the run other, but the set is made/synthetic.safetensors"),
        ("others", "--out others holds the scores of another set than made/synthetic.safetensors"),
        ("theirs", "theirs/scores.json does not hold scores"),
    ],
)
def test_an_evaluation_goes_to_no_folder_of_others(out: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("made", "other")
    Path("others").mkdir()
    shutil.copy("made/scores.json", "others")
    text = Path("others/scores.json").read_text()
    Path("others/scores.json").write_text(text.replace(load("made").digests["images"], "0"))
    Path("theirs").mkdir()
    Path("theirs/scores.json").write_text('{"goals": 3}')
    before = contents()
    assert main((*EVALUATE, "--networks", "1", "--baselines", "--out", out)) == 2
    assert sentence in capsys.readouterr().err
    assert contents() == before


def test_a_larger_table_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    usual = Path("made/evaluation-mtt-1-epochs/scores.json")
    assert main((*EVALUATE, "--networks", "2", "--baselines", "random")) == 0
    table = usual.read_text()
    for fewer in (("--networks", "1", "--baselines"), ("--networks", "2", "--baselines")):
        capsys.readouterr()
        assert main((*EVALUATE, *fewer)) == 0
        assert "over n = 2 fresh networks" in " ".join(capsys.readouterr().out.split())
        assert usual.read_text() == table
    beside = {("--seed", "9"): "seed-9", ("--baselines", "kmeans"): "1-network-kmeans"}
    for words, name in beside.items():
        assert main((*EVALUATE, "--networks", "1", "--baselines", *words)) == 0
        assert Path(f"made/evaluation-mtt-1-epochs-{name}/scores.json").exists()
        assert usual.read_text() == table
    assert main((*EVALUATE, "--networks", "3", "--baselines", "random", "kmeans")) == 0
    assert json.loads(usual.read_text())["baselines"]["kmeans"]["n"] == 3


def test_a_table_that_another_process_made_before_the_folder_was_taken_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, writing, tables = Path("made/evaluation-mtt-1-epochs/scores.json"), RunDir.writing, list[str]()

    def another_first(run: RunDir) -> AbstractContextManager[None]:
        monkeypatch.setattr(RunDir, "writing", writing)
        assert main((*EVALUATE, "--networks", "2", "--baselines", "random")) == 0
        tables.append(usual.read_text())
        return writing(run)

    monkeypatch.setattr(RunDir, "writing", another_first)
    assert main((*EVALUATE, "--networks", "1", "--baselines", "kmeans")) == 0
    assert [usual.read_text()] == tables
    assert Path("made/evaluation-mtt-1-epochs-1-network-kmeans/scores.json").exists()


def test_a_table_in_a_folder_that_was_named_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    words = (*EVALUATE, "--networks", "2", "--baselines", "--out", "table")
    assert main(words) == 0
    before = contents()
    assert main(words) == 0
    assert main((*words, "--networks", "1")) == 0
    table = Path("table/scores.json")
    earlier = {name: value for name, value in json.loads(table.read_text()).items() if name != "seed"}
    for other in (("--seed", "9"), ("--networks", "1", "--baselines", "random"), ("--seed", "8")):
        if "8" in other:  # a table of an earlier version, whose networks tell the seed
            table.write_text(json.dumps(earlier))
            before |= {table: table.read_bytes()}
        assert main((*words, *other)) == 2
        message = capsys.readouterr().err
        assert "--out table holds a table of 2 networks a row (convnet-d1-w4), which this one would replace" in message
    assert {path: kept for path, kept in contents().items() if path.parts[0] == "table"} == {
        path: kept for path, kept in before.items() if path.parts[0] == "table"
    }


@pytest.mark.parametrize(
    "other", [("--protocol", "dc"), ("--epochs", "2"), ("--lr", "0.5"), ("--lr", "search")], ids=" ".join
)
def test_a_table_of_another_protocol_is_neither_shown_nor_replaced(
    other: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*EVALUATE, "--networks", "1", "--baselines", "random", "--out", "table")
    assert main(words) == 0
    before = Path("table/scores.json").read_bytes()
    capsys.readouterr()
    assert main((*words, *other)) == 2
    message = capsys.readouterr().err
    assert (
        "--out table holds a table of 1 network a row (convnet-d1-w4, with the baselines random) (Protocol" in message
    )
    assert "which this one would replace; name a new folder, for example --out table-2" in message
    assert Path("table/scores.json").read_bytes() == before


def row(networks: int) -> RowScores:
    return RowScores(final=(1.0,) * networks, mean=1.0, std=None, n=networks)


SCORES = Scores(recipe=MTT_PROTOCOL, architecture={"convnet-d3": row(2)}, baselines={"random": row(2)}, seed=0)
REQUEST = TableRequest(2, ("convnet-d3",), ("random",), 0, None, 1.0, MTT_PROTOCOL, searched=False)


@pytest.mark.parametrize(
    ("changes", "place"),
    {
        "the same": ({}, "table"),
        "more networks": ({"networks": 3}, "table"),
        "a row less": ({"baselines": ()}, "kept"),
        "epochs": ({"recipe": MTT_PROTOCOL.replace(epochs=10)}, "table-2-networks-random"),
        "protocol": ({"recipe": PROTOCOLS["dc"], "baselines": ()}, "table-2-networks-no-baselines"),
        "rate": ({"recipe": MTT_PROTOCOL.replace(lr=0.5)}, "table-2-networks-random"),
        "searched": ({"searched": True}, "table-2-networks-random"),
        "seed": ({"seed": 1}, "table-2-networks-random"),
        "networks of a protocol": ({"recipe": MTT_PROTOCOL.replace(networks=8), "baselines": ()}, "kept"),
        "full data unasked": ({"recipe": MTT_PROTOCOL.replace(full_epochs=8), "baselines": ()}, "kept"),
    }.values(),
)
def test_where_a_table_goes(changes: dict[str, Any], place: str, tmp_path: Path) -> None:
    folder = tmp_path / "table"
    SCORES.write(RunDir(folder).scores)
    chosen = choose_folder(folder, False, replace(REQUEST, **changes), [])
    if place == "kept":
        assert chosen == TableFolder(folder, SCORES)
    else:
        assert chosen == TableFolder(tmp_path / place)


def test_settings_replace_settings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    be_quiet(False)
    Path("notes.md").write_text("# Notes\n")
    Path("services.yaml").write_text("version: 3\nservices: {web: 1}\n")
    before = contents()
    for name in ("notes.md", "services.yaml"):
        assert main(("run", "digits-ipc1", "--dry-run", "--save-config", name)) == 2
        assert f"--save-config {name} exists already and holds no settings" in capsys.readouterr().err
    assert contents() == before
    for ipc in ("1", "2"):
        assert main(("demo", "--dry-run", "--ipc", ipc, "--save-config", "new/mine.yaml")) == 0
        said = capsys.readouterr()
        assert "Settings: new/mine.yaml" in said.err
        assert "(nothing was written but new/mine.yaml: --dry-run)" in " ".join(said.out.split())
        assert f"ipc: {ipc}" in Path("new/mine.yaml").read_text()
    Path("empty.yaml").touch()
    assert main(("demo", "--dry-run", "--save-config", "empty.yaml", "--ipc", "2")) == 0


def test_a_page_replaces_pages_alone(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("made", "other")
    Path("report.html").write_text("<p>My report.</p>")
    assert main(("report", "made", "other")) == 2
    assert "report.html exists already and is no report of astdistill; name another" in capsys.readouterr().err
    assert Path("report.html").read_text() == "<p>My report.</p>"
    for _ in range(2):
        assert main(("report", "made", "other", "--out", "both.html")) == 0
        assert "Open: both.html" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["text", "markdown", "latex"])
def test_tables_replace_tables_alone(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    be_quiet(False)
    Path("notes.md").write_text("# Notes\n")
    words = ("compare", "made", "--format", format, "--out")
    assert main((*words, "notes.md")) == 2
    assert "--out notes.md exists already, and is not as astdistill compare wrote it" in capsys.readouterr().err
    assert Path("notes.md").read_text() == "# Notes\n"
    for _ in range(2):
        assert main((*words, "table.txt")) == 0
        assert "Written: table.txt" in capsys.readouterr().err
    with Path("table.txt").open("a") as file:
        file.write("my remark\n")
    changed = Path("table.txt").read_text()
    assert main((*words, "table.txt")) == 2
    assert Path("table.txt").read_text() == changed


def test_another_set_of_the_run_keeps_its_scores(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("made/synthetic.safetensors", "made/last.safetensors")
    assert main(LONGER) == 0
    assert main(("evaluate", "made/last.safetensors", *EVALUATE[2:], "--networks", "1", "--baselines")) == 0
    assert list(read_run("made").evaluations) == ["made", "evaluation-last-mtt-1-epochs"]
    assert read_run("made").outdated == {}
    Path("made/last.safetensors").unlink()
    assert list(read_run("made").outdated) == ["evaluation-last-mtt-1-epochs"]
    assert main(("compare", "made/evaluation-last-mtt-1-epochs")) == 2
    assert "evaluation-last-mtt-1-epochs are of an earlier set" in capsys.readouterr().err
