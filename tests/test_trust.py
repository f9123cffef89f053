"""Strangers' files and folders import nothing; modules that the user names are found, also in the current folder."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import forking
import pytest
import torch
from folders import own_cache

import astdistill as ad
from astdistill.cli.main import main
from astdistill.experts.store import StoreIdentity
from astdistill.interop.huggingface import card
from astdistill.methods.registry import find_method
from astdistill.models.registry import build_model
from astdistill.report.run import read_run
from astdistill.runtime.config import find_component
from astdistill.runtime.errors import InputError
from astdistill.runtime.trust import (
    import_name,
    is_trusted,
    module_of,
    named_in,
    trusted_modules,
    trusting,
    typed,
)

SRC = Path(__file__).parents[1] / "src"
RUN = (
    "run", "digits-ipc1", "--data.per-class", "6", "--experts.count", "2", "--method.expert.epochs", "2", "--model", "convnet-d1-w4",
    "--distill.iterations", "2", "--method.step.max-start-epoch", "1", "--method.step.expert-epochs", "1", "--method.step.syn-steps", "1",
    "--evaluation.recipe.epochs", "2", "--evaluation.networks", "2", "--evaluation.baselines", "random", "--out", "run", "--quiet",
)  # fmt: skip
EXPERTS = (
    "experts", "digits-ipc1", "--data.per-class", "6", "--experts.count", "2", "--method.expert.epochs", "2", "--model", "convnet-d1-w4",
    "--method.step.max-start-epoch", "1", "--method.step.expert-epochs", "1", "--experts.store", "store", "--quiet",
)  # fmt: skip
EVIL = "open('PWNED', 'w').close()\nfrom torch import nn\ndef f(channels, classes, size): return nn.Linear(1, 1)\n"
PART = """
from astdistill.methods import MTT, Perturbation
import my_sibling

class Shrink(Perturbation):
    def __call__(self, start, model, generator):
        return start * my_sibling.FACTOR

SHRUNK = MTT.replace(name="shrunk", paper="mine", perturb=Shrink())
"""


def astdistill(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as the installed script runs it: its path begins with the script's folder,
    and the current one is not in it."""
    script, cache = folder.parent / "bin" / "astdistill", folder.parent / "cache"
    if not cache.exists():
        own_cache(cache)
    script.parent.mkdir(exist_ok=True)
    script.write_text("import sys\nfrom astdistill.cli.main import main\nsys.exit(main())\n")
    return subprocess.run(
        [sys.executable, str(script), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SRC), "ASTDISTILL_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, first in the path as notebooks have it, with a module that tells when it is imported."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "evilmod.py").write_text(EVIL)
    monkeypatch.delitem(sys.modules, "evilmod", raising=False)
    return folder


def stranger(folder: Path, **changes: str) -> Path:
    """A set that names what it should not."""
    dataset = ad.load_dataset("digits", per_class=4)
    images = torch.cat([dataset.train.whole()[dataset.train.labels == label][:1] for label in range(10)])
    plain = ad.SyntheticSet(
        images=images,
        targets=torch.eye(10),
        lr=torch.tensor(0.01),
        classes=dataset.classes,
        preprocessing=dataset.preprocessing,
        data=dataset.config,
        model="convnet-d1-w4",
        method="mtt",
        fingerprint=dataset.fingerprint,
    )
    dataclasses.replace(plain, **changes).save(folder / "s.safetensors")
    return folder / "s.safetensors"


def test_a_set_that_names_a_module_imports_nothing(here: Path) -> None:
    file = stranger(here, model="evilmod:f", method="evilmod:f")
    synthetic = ad.load(file)
    card(synthetic, None, "*.parquet")
    synthetic.export("huggingface", here / "x")
    with pytest.raises(InputError, match=r"'evilmod:f' is named by a file .* add --trust evilmod \(in Python"):
        ad.evaluate(synthetic, ad.load_dataset(synthetic.data), seeds=1)
    assert main(["evaluate", str(file), "--epochs", "1", "--networks", "1", "--quiet"]) == 2
    assert main(["textures", str(file)]) == 2
    assert not (here / "PWNED").exists()
    assert "evilmod" not in sys.modules


def test_a_run_that_names_a_module_imports_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--workers", "1"]) == 0
    config = json.loads((here / "run/config.json").read_text())
    for field in ("step", "perturb", "init", "estimator"):
        config["method"][field] = {"part": "evilmod:f"}
    config["model"] = "evilmod:f"
    (here / "run/config.json").write_text(json.dumps(config))
    (recipe,) = (here / "experts").glob("*/recipe.json")
    store = json.loads(recipe.read_text())
    store["identity"]["model"] = "evilmod:f"
    recipe.write_text(json.dumps(store))
    store_folder = recipe.parent.with_name(StoreIdentity.model_validate(store["identity"]).digest())
    recipe.parent.rename(store_folder)  # a store whose name is that of its recipe
    capsys.readouterr()
    assert main([*RUN, "--workers", "1"]) == 2
    assert "--trust evilmod" in capsys.readouterr().err
    assert main(["report", "run"]) == 0
    assert "--trust evilmod" in (here / "run/report.html").read_text()
    assert (
        main(["compare", "run"]) == main(["watch", "run", "--once"]) == main(["export", "run", "--format", "npz"]) == 0
    )
    read_run("run").step  # noqa: B018  (a property, which must not import)
    dataset = ad.load_dataset("digits", per_class=6)
    step = ad.methods.MTT.step.replace(max_start_epoch=1, expert_epochs=1, syn_steps=1)
    method, experts = ad.methods.MTT.replace(step=step), ad.TrajectoryStore.open(store_folder)
    with pytest.raises(InputError, match="--trust evilmod"):
        ad.distill(dataset, experts, method=method)
    assert not (here / "PWNED").exists()


@pytest.mark.parametrize(
    "path", ["astdistill.__main__:x", "astdistill.runtime.files:write_text", "this:s", "os:system"]
)
def test_not_even_modules_of_the_library_are_imported_or_called_for_a_file(path: str) -> None:
    for read in (import_name, find_method, lambda name: build_model(name, (1, 8, 8), 10)):
        with pytest.raises(InputError):
            read(path)
    with suppress(InputError):
        assert not isinstance(find_component(path), type)


@pytest.mark.parametrize(
    "path", ["", ":", "a", "a:", ":a", "a b:c", "a;rm -rf ~:f", "../a:b", "a:b c", "x=a:b", "a\n:b", "a" * 9000]
)
def test_what_is_no_import_path_is_never_put_into_a_command(path: str) -> None:
    with pytest.raises(InputError, match=r"write 'package\.module:name'") as told:
        module_of(path)
    assert "--trust" not in str(told.value)
    assert len(str(told.value)) < 600


def test_a_name_is_trusted_with_what_lies_in_it_and_no_further() -> None:
    with trusting("mine.sub:f"):
        assert is_trusted("mine.sub")
        assert is_trusted("mine.sub.below")
        assert not is_trusted("mine")
        assert not is_trusted("mine.subway")
    assert not is_trusted("mine.sub")


def test_the_words_of_a_command_line_that_name_modules() -> None:
    words = [
        "run",
        "p",
        "--part",
        "perturb=a.b:C",
        "--method=c:M",
        "--model",
        "convnet-d3",
        "--trust",
        "d",
        "--out",
        "e:f",
    ]
    assert named_in(words) == ["perturb=a.b:C", "c:M", "d"]
    assert named_in(["evaluate", "x", "--architectures", "timm:resnet18", "g.h:i", "mlp"]) == ["timm:resnet18", "g.h:i"]
    with typed(words):
        assert all(map(is_trusted, ("a.b", "c", "d")))
        assert not any(map(is_trusted, ("a", "e", "timm", "perturb")))
        sent = trusted_modules()
    assert sent[1] == {"a.b", "c", "d"} <= sent[0]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--methods", "a:M"], ["a:M"]),
        (["--methods=mtt,a:M,b.c:N"], ["a:M", "b.c:N"]),
        (["--methods", "a:M", "b:N"], ["a:M", "b:N"]),
        (["--set", "model=a:net,convnet-d3,b:net"], ["a:net", "b:net"]),
        (["--set=model=a:net"], ["a:net"]),
        (["--set", "evaluation.architectures=a:net+mlp,b:net", "model=c:net"], ["a:net", "b:net", "c:net"]),
        (["--set", "data.source=a:b", "evaluation.baselines=random+kmeans"], []),
    ],
)
def test_the_words_of_a_sweep_that_name_modules(words: list[str], names: list[str]) -> None:
    assert named_in(["sweep", "digits-ipc1", *words, "--seeds", "2"]) == names
    with typed(words):
        assert all(is_trusted(module_of(name)) for name in names)


USERS_METHOD = """
from astdistill.methods import DM

class Step(type(DM.step)):
    pass

OWN = DM.replace(name="own", paper="mine", step=Step())
"""


def test_a_sweep_runs_a_method_of_the_current_folder_in_its_workers(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "my_own.py").write_text(USERS_METHOD)
    words = "--methods my_own:OWN --seeds 2 --workers 2 --threads 1 --set distill.iterations=1 model=convnet-d1-w4"
    few = "evaluation.networks=1 evaluation.recipe.epochs=1 evaluation.baselines=random data.per_class=6"
    ended = astdistill(folder, "sweep", "digits-ipc1", *words.split(), *few.split(), "--out", "out")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Failed" not in ended.stdout


def test_a_python_caller_names_networks_and_trusts_files(here: Path) -> None:
    (here / "my_net.py").write_text(EVIL.replace("PWNED", "IMPORTED"))
    file = stranger(here, model="my_net:f")
    with pytest.raises(InputError, match="--trust my_net"):
        ad.evaluate(ad.load(file), ad.load_dataset("digits", per_class=4), seeds=1)
    assert not (here / "IMPORTED").exists()
    with trusting():  # so that nothing is left of it
        assert ad.load(file, trust="my_net").model == "my_net:f"
        build_model("my_net:f", (1, 8, 8), 10)
    del sys.modules["my_net"]
    with trusting():
        ad.build_model("my_net:f", (1, 8, 8), 10)  # the caller's own word
    del sys.modules["my_net"]


@pytest.mark.slow
def test_own_modules_are_found_by_the_script_and_asked_for_when_a_run_names_them(tmp_path: Path) -> None:
    """Two workers, who have to find them too; the same command again, another verb, and the user's word."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "my_part.py").write_text(PART)
    (folder / "my_sibling.py").write_text("FACTOR = 0.99\n")
    (folder / "my_network.py").write_text(
        EVIL.replace("nn.Linear(1, 1)", "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))")
    )
    words = [*RUN, "--method", "my_part:SHRUNK", "--model", "my_network:f", "--workers", "2"]
    words.remove("convnet-d1-w4")
    words.pop(words.index("--model"))
    for _ in range(2):
        done = astdistill(folder, *words)
        assert done.returncode == 0, done.stderr
    again = [
        "evaluate",
        "run",
        "--epochs",
        "1",
        "--networks",
        "2",
        "--baselines",
        "random",
        "--workers",
        "2",
        "--quiet",
    ]
    refused = astdistill(folder, *again)
    assert refused.returncode == 2
    assert "--trust my_network" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert astdistill(folder, *again, "--trust", "my_network").returncode == 0


TRAPS = """
for name in ("signal", "json", "torch", "pickle", "queue", "threading", "mmap"):
    with open(f"{name}.py", "w") as file:
        file.write("open('PWNED', 'a').write(__name__)")
"""
"""Lays modules of the library's names into the current folder."""
ONE_WORKER = """
from astdistill.runtime.parallel import WorkerPlan
from torch import nn
WorkerPlan.starts = lambda *_: True
def f(channels, classes, size): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
"""A network whose module has the command start a process also for one expert, so that a single Python is started."""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["script", pytest.param("module", marks=pytest.mark.started_anew), "code"])
def test_files_of_the_current_folder_are_no_modules_of_a_worker(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules of the library that lie there, in each way that Python is started; with `-c` and in notebooks the folder
    is in the parent's own path. The worker is started anew each time. So is the parent where Python itself puts the
    folder into its path before anything is imported."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "my_network.py").write_text(ONE_WORKER)
    words = [*EXPERTS, "--experts.count", "1", "--workers", "1", "--model", "my_network:f"]
    for known in ("--experts.count", "--model"):
        at = words.index(known)
        del words[at : at + 2]
    begun = f"import sys\nfrom astdistill.cli.main import main\nsys.exit(main({words!r}))"
    if how == "code":
        before = "import astdistill.cli.verbs\n"  # where no fork server has imported it, as under coverage
        command = [sys.executable, "-c", forking.FORKED + before + TRAPS + begun]
    elif how == "module":
        command = [sys.executable, "-m", "astdistill", *words]
    else:
        (tmp_path / "astdistill").write_text(begun)
        command = [sys.executable, str(tmp_path / "astdistill")]
    if how != "code":
        monkeypatch.chdir(folder)
        exec(TRAPS, {})
    if how == "module":
        (folder / "signal.py").unlink()  # which Python itself imports before a line of ours runs
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SRC), "ASTDISTILL_CACHE": str(own_cache(tmp_path / "cache"))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((folder / "store").rglob("*.safetensors"))
    assert not (folder / "PWNED").exists()
