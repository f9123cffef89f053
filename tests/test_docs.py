"""Every code block of the documentation runs: Python as it stands, commands with smaller counts; links and pictures are
there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from folders import own_cache
from PIL import Image

import astdistill
from astdistill.cli.main import VERBS, main
from astdistill.evaluation.protocol import PROTOCOLS
from astdistill.experiment.config import Experiment
from astdistill.experiment.presets import PRESETS
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.registry import find_method, methods
from astdistill.runtime.config import Record
from astdistill.runtime.trust import typed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', flags=re.DOTALL | re.MULTILINE)

TINY = {
    "--experts.count": "1",
    "--method.expert.epochs": "3",
    "--model": "convnet-d1-w4",
    "--distill.iterations": "2",
    "--method.step.max-start-epoch": "2",
    "--method.step.syn-steps": "2",
    "--evaluation.recipe.epochs": "2",
    "--evaluation.recipe.full-epochs": "1",
    "--evaluation.networks": "1",
    "--distill.validate-every": "1",
    "--distill.validate-epochs": "2",
    "--workers": "1",
}
FEW_TRIALS = {"--trials": "2", "--steps": "8", "--distill.validate-epochs": "2", "--distill.validate-networks": "1"}
FEWER = {"--epochs": "2", "--networks": "1", "--baselines": "random", "--workers": "1"}


class Block(NamedTuple):
    """A fenced block: its language, the file it is shown as, its text."""

    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall((DOCS / page).read_text(encoding="utf-8"))]


SCRIPT = Path(sys.executable).parent / "astdistill"
BY_SCRIPT = "your-own-network.md"
"""A page whose commands name a module that the reader writes; they run as typed, by the installed script."""


def smaller(words: list[str]) -> list[str]:
    """The same command with small counts where it says none, and no longer with --distill.validate-every above them."""
    if words == ["demo"]:  # the run that lies on the desk, which is finished
        words = ["demo", "--data.per-class", "20"]
    if words[0] in ("run", "experts", "distill", "demo", "tune"):
        validates = "--distill.validate-every" in words
        mine = {flag: count for flag, count in TINY.items() if validates or not flag.startswith("--distill.validate")}
        with typed(words):
            method = find_method(words[words.index("--method") + 1] if "--method" in words else "ast")
        if method.expert is None:
            mine = {
                flag: count for flag, count in mine.items() if not flag.startswith("--method.")
            }  # it has no such flag
        if not isinstance(method.step, TrajectoryMatching):
            mine = {flag: count for flag, count in mine.items() if not flag.startswith("--method.step.")}
        for flag in ("--distill.validate-every", "--distill.iterations"):
            if flag in words:
                words[words.index(flag) + 1] = mine.pop(flag)
        if words[0] == "tune":
            mine |= FEW_TRIALS
        if "--config" in words:
            mine = {flag: count for flag, count in mine.items() if not flag.startswith("--method.step.")}
        return [
            *words,
            *(word for flag, count in mine.items() if flag not in words for word in (flag, count)),
            "--quiet",
        ]
    return fewer_of(words)


def fewer_of(words: list[str]) -> list[str]:
    """The same for the commands that take no flags of a preset."""
    if words[0] == "sweep":
        left = ("--workers", "--distill.validate-every", "--distill.validate-epochs")
        tiny = [f"{flag[2:].replace('-', '_')}={count}" for flag, count in TINY.items() if flag not in left]
        return [*words, "--set", *tiny, "--workers", "1", "--quiet"]
    if words[0] == "evaluate":
        fewer = {flag: count for flag, count in FEWER.items() if flag not in words}
        if "rat" in words:
            del fewer["--epochs"]  # it counts steps
        return [*words, *(word for pair in fewer.items() for word in pair), "--quiet"]
    return words


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `astdistill demo` leaves, with smaller counts."""
    folder = tmp_path_factory.mktemp("demo")
    words = ["demo", "--out", str(folder / "run"), "--experts.store", str(folder / "experts"), "--data.per-class", "20"]
    assert main(smaller(words)) == 0
    return folder / "run"


@pytest.fixture
def desk(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos of cats and dogs and the demo's run in it, from which modules can be imported."""
    shutil.copytree(demo, tmp_path / "runs" / "demo")
    draw = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for tint, name in enumerate(("cats", "dogs")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = (draw.integers(0, 128, (40, 36, 3)) + 90 * tint).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{number:04d}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ASTDISTILL_CACHE", str(own_cache(tmp_path / "cache")))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setitem(PROTOCOLS, "rat", PROTOCOLS["rat"].replace(steps=(2, 5)))  # no flag shortens it
    return tmp_path


def command(line: str, as_script: bool = False) -> None:
    """Run one line of a shell block, in this process or by the installed script in one of its own."""
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE), line
        return
    if words[:2] == ["pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert words[2].removeprefix("astdistill[").removesuffix("]") in project["optional-dependencies"], line
        return
    assert words[0] == "astdistill", line
    if as_script:
        # `-P` would do more than the script: its own folder leads its path, and the current one is not in it.
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *smaller(words[1:])], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, (line, done.stderr)
        return
    try:
        code = main(smaller(words[1:]))
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_block_runs(page: str, desk: Path) -> None:
    names: dict[str, object] = {}
    if any("astdistill tune" in block.text for block in blocks(page)):
        pytest.importorskip("optuna", reason="optuna is not installed: pip install 'astdistill[tune]'")
    before = set(sys.modules)
    for block in blocks(page):
        if block.title:
            (desk / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(block.text, names)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":  # as --config reads it
            assert yaml.safe_load(block.text)["preset"] in PRESETS
        else:
            assert block.language == "sh", f"{page} has a block in {block.language}"
            for line in block.text.strip().splitlines():
                command(line, as_script=page == BY_SCRIPT and SCRIPT.exists())
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


OLD = """
dataset subset model ipc eval_mode num_eval eval_it epoch_eval_train Iteration lr_img lr_lr lr_teacher lr_init batch_real
batch_syn batch_train pix_init dsa dsa_strategy data_path buffer_path expert_epochs syn_steps max_start_epoch zca load_all no_aug
texture canvas_size canvas_samples max_files max_experts force_save num_experts train_epochs decay save_interval mom l2 optim
loss_decay gp weight_perturb agg_middle_loss balance_loss lr_label
"""
"""The flags of MTT's two scripts, and of AST's, without their dashes."""
SHORTCUTS = {"--data", "--init", "--method", "--part", "--without", "--protocol", "--log"}
"""Flags that are read before the fields of an experiment."""
OF_COMPONENTS = {"--method.perturb.factor", "--method.estimator.k", "--method.step.rate-logits"}
"""Flags of components that no method of the package has: `--part` or a method of the reader's own puts them there."""


def flags(record: Record, before: str = "--") -> set[str]:
    """The command line's flags for the fields of a record and of those inside it."""
    found = set()
    for name in type(record).model_fields:
        flag, value = before + name.replace("_", "-"), getattr(record, name)
        found |= {flag} | (flags(value, flag + ".") if isinstance(value, Record) else set())
    return found


def test_every_old_flag_has_a_new_name_that_exists_or_a_reason() -> None:
    rows = re.findall(
        r"^\| (`.+?) \| (.+?) \| (.*?) ?\|$", (DOCS / "coming-from.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert set(OLD.split()) <= {old for row in rows for old in re.findall(r"`-*(\w+)`", row[0])}
    known = SHORTCUTS.union(*(flags(Experiment(name="any", method=method)) for method in methods().values()))
    for old, new, told in rows:
        names = re.findall(r"`(--[\w.-]+)`", new)
        assert set(names) <= known, f"{old}: {set(names) - known} are no flags"
        assert names or (new == "*none*" and told), f"{old} has neither a new name nor a reason"


def test_links_flags_and_commands_of_every_page_lead_somewhere() -> None:
    known = set().union(*(flags(Experiment(name="any", method=method)) for method in methods().values()))
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert f" {page}" in menu
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            assert target.startswith("http") or (DOCS / target).exists(), f"{page} names {target}"
        for flag in re.findall(r"(?<![\w-])--(?:method|distill|data|experts|evaluation)\.[\w.-]+", text):
            assert flag.rstrip(".").replace(".no-", ".") in known | OF_COMPONENTS, f"{page} names {flag}"
        for verb in re.findall(r"`astdistill ([a-z][\w-]*)", text):
            assert verb in VERBS, f"{page} names astdistill {verb}"


def test_every_public_name_is_on_the_api_page() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = {line.removeprefix("::: ").rpartition(".")[2] for line in page.splitlines() if line.startswith("::: ")}
    assert set(astdistill.__all__) <= shown


@pytest.mark.parametrize(
    ("page", "begins", "names"),
    [
        ("command-line.md", "Methods: ", methods),
        ("command-line.md", "Protocols: ", lambda: PROTOCOLS),
        ("writing-a-method.md", "The methods of the package: ", methods),
    ],
)
def test_lists_in_prose_name_everything(page: str, begins: str, names: Callable[[], Iterable[str]]) -> None:
    (_, text) = re.sub(r"\s+", " ", (DOCS / page).read_text(encoding="utf-8")).split(begins, 1)
    said = re.match(r"(?:`[\w-]+`, )*`[\w-]+`", text)
    assert said is not None
    assert set(re.findall(r"`([\w-]+)`", said[0])) == set(names())


def test_the_readme_names_every_method() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w-]+)`", text.split("* **Methods**", 1)[1].split("* **Your own method**", 1)[0]))
    assert set(methods()) <= named | {"ast-tgdd"}, "a combination of two that are named"
