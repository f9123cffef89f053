"""Others' words on terminals, in pictures, on the page and in file names; standard streams that are closed or narrow."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import own_cache

import astdistill as ad
from astdistill.data.synthetic import SyntheticSet
from astdistill.report.figures import blank, legend
from astdistill.report.page.drawing import panel, svg
from astdistill.report.page.page import save_page
from astdistill.report.pictures import save_grid
from astdistill.runtime.errors import InputError, suggestion
from astdistill.runtime.files import cache_folder, write_json, write_text
from astdistill.runtime.run_dir import RunDir
from astdistill.runtime.tables import Column, Tabulation, terminal
from astdistill.runtime.terminal import Terminal
from astdistill.runtime.text import LETTERS, display_name, file_name, many, printable

SRC = Path(__file__).parents[1] / "src"
NAMES = (
    "\u200b", "", " ", "_", "a\x1b[31mred", "$x$", "$", "<b>bold</b><script>alert(1)</script>", "M" * 300, "猫" * 80, "\udce9t\udce9",
    "\u202egnp.exe", "[bold]", "e\u0301" * 40, "\u3164", "a\nb", "\x00", "&lt;", "_hidden", "{{ 1 }}", "\\frac", "%s",
)  # fmt: skip
RUN = (
    "run", "digits-ipc1", "--data.per-class", "6", "--experts.count", "1", "--method.expert.epochs", "2", "--model", "convnet-d1-w4",
    "--distill.iterations", "2", "--method.step.max-start-epoch", "1", "--method.step.expert-epochs", "1", "--method.step.syn-steps", "1",
    "--evaluation.recipe.epochs", "1", "--evaluation.networks", "2", "--evaluation.baselines", "random", "--out", "run",
)  # fmt: skip


def named(*names: str) -> SyntheticSet:
    """A set whose classes have these names."""
    dataset = ad.load_dataset("digits", per_class=2)
    count = len(names)
    images = dataset.train.whole()[torch.arange(count) % len(dataset.train)]
    return SyntheticSet(
        images=images,
        targets=torch.eye(count),
        lr=torch.tensor(0.01),
        classes=names,
        preprocessing=dataset.preprocessing,
        data=dataset.config,
        model="convnet-d1-w4",
        method="mtt",
    )


@pytest.mark.drawn
def test_classes_of_any_name_are_drawn_exported_and_shown(tmp_path: Path) -> None:
    """No glyph to be seen, 300 letters, halves of signs, formulas, markup and orders to the terminal."""
    synthetic = named(*NAMES)
    synthetic.save(RunDir(tmp_path / "run").synthetic)
    assert ad.load(tmp_path / "run").classes == NAMES
    few = named(*NAMES[:8])
    doubled = replace(
        few, images=few.images.repeat_interleave(2, dim=0), targets=few.targets.repeat_interleave(2, dim=0)
    )
    save_grid(doubled, tmp_path / "2.png")
    ad.load(tmp_path / "run").export("png", tmp_path / "png")  # one image a class
    save_page([tmp_path / "run"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    assert "\x1b" not in page
    assert "\x00" not in page


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_short_visible_line_and_a_file_of_few_bytes(name: str) -> None:
    shown = display_name(name)
    assert 0 < len(shown) <= LETTERS
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert shown.encode()
    assert len(file_name(name).encode()) <= 80
    assert "/" not in file_name(name)


def test_signs_that_a_terminal_obeys_are_written_out() -> None:
    assert printable("a\x1b]0;title\x07b\x9bc") == r"a\x1b]0;title\x07b\x9bc"
    assert printable("\u202eabc\udcff") == r"\u202eabc\udcff"
    assert printable("été, 猫, 👨\u200d👩\n\t ±") == "été, 猫, 👨\u200d👩\n\t ±"
    shown = io.StringIO()
    console = Terminal(file=shown, force_terminal=True, width=80)
    console.print("[red]\x1b[2J[/nothing]", highlight=False)
    console.print(
        terminal(
            Tabulation((Column("\x1b[5mname", left_aligned=True),), (("\x1b[2Jcell",),), "cap\x1btion", "ti\x07tle")
        )
    )
    assert "\x1b[2J" not in shown.getvalue()
    assert "\x1b[5m" not in shown.getvalue()
    assert "\x07" not in shown.getvalue()
    assert r"[red]\x1b[2J[/nothing]" in shown.getvalue()


@pytest.mark.drawn
def test_dollars_and_underscores_in_the_names_of_runs_are_letters() -> None:
    figure, axes = panel()
    ours = "momentum 0.9, clipping, penalty 2, rate drop (n = 100)"
    for label in ("$a", "b$", "_c", "$\\nothing{$", ours):
        axes.plot([1, 2], [1, 2], label=label)
    legend(axes)
    drawn = svg(figure, "x", "told")
    assert all(label in drawn for label in ("$a", "b$", "\\nothing"))
    shown = axes.get_legend()
    assert shown is not None
    assert len(shown.get_texts()) == 5
    assert shown.get_texts()[-1].get_text() == ours
    assert blank(1, 1)


def test_a_folder_of_other_bytes_is_written_about(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "\udce9")
    assert (tmp_path / "page.html").read_text() == r"\udce9"
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_json(folder / "a.json", {"path": str(folder)})
    assert printable(str(folder)).endswith(r"caf\udce9")


def test_without_a_home_there_is_a_cache_of_one_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ASTDISTILL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = cache_folder()
    assert own == cache_folder() == tmp_path / f"astdistill-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)  # as somebody else would leave it
    assert cache_folder() != own
    own.rmdir()
    own.symlink_to(tmp_path)
    assert cache_folder() != own


NARROW = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SEVERAL = """
import sys
from astdistill.cli.main import main
from astdistill.runtime.parallel import WorkerPlan
from forking import one_pixel
from matplotlib.figure import Figure
Figure.savefig, first = one_pixel, iter([True])
WorkerPlan.starts = lambda *_: next(first, False)
codes = [main(["presets", "--help"]), main(["compare", "caf\\u00e9\\u200b\\u2013"]), main(sys.argv[1:])]
sys.exit(codes != [0, 2, 0])
"""
"""Three commands in one Python, and one worker, which trains the expert."""


@pytest.mark.slow
def test_a_run_ends_well_in_an_ascii_locale_with_closed_input_and_no_home(tmp_path: Path) -> None:
    """So do a help and an error, every sign of which is spelled."""
    done = subprocess.run(
        ["bash", "-c", 'unset HOME; "$0" -c "$@" <&-', sys.executable, SEVERAL, *RUN, "--workers", "1"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{SRC}{os.pathsep}{Path(__file__).parent}",
            "ASTDISTILL_CACHE": str(own_cache(tmp_path / "cache")),
            **NARROW,
        },
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert b"Traceback" not in done.stderr
    assert b"caf" in done.stderr
    assert b"+/-" in done.stdout


def test_a_sentence_obeys_no_sign_of_a_strangers_name() -> None:
    error = InputError("There is no class '\x1b[2J\u202ecat'.")
    assert str(error) == r"There is no class '\x1b[2J\u202ecat'."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_number_has_its_noun() -> None:
    assert [many(count, "image") for count in (0, 1, 1437)] == ["0 images", "1 image", "1,437 images"]


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("evalute", ["evaluate", "export", "run"], "evaluate"),
        ("optimizer", ["outer_optimiser", "outer_decay"], "outer_optimiser"),
        ("vgg", ["alexnet", "vgg11", "vit"], "vgg11"),
        ("boat", ["cat", "deer", "ship"], ""),
        ("test", ["get", "run", "tune"], ""),
        ("standard", ["mtt", "rat", "tgdd"], ""),
        ("efficientnet", ["alexnet", "convnet", "lenet"], ""),
    ],
)
def test_a_name_is_suggested_for_one_that_was_mistyped_and_not_for_another_thing(
    name: str, names: list[str], near: str
) -> None:
    assert suggestion(name, names) == (near and f" Did you mean '{near}'?")
