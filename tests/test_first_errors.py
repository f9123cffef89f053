"""What a newcomer can get wrong or find broken: the sentence, the exit code, and that nothing was written or lost.

Bad words on the command line are in test_cli.py, faults of data in tests/data.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from desk import RUN, TINY, contents, made_in

from astdistill.cli.main import main
from astdistill.data import sources
from astdistill.data.synthetic import load

try:
    import resource
except ImportError:  # Windows
    resource = None

MORE = (*RUN, "--distill.iterations", "4")
FRESH = (*RUN, "--out", "new", "--experts.store", "new-experts")
OWN = ("run", "digits-ipc1", *TINY[:-3], "--quiet", "--out", "new", "--data")
MADE = "runs/digits-ipc1"
IMPORT = ("import-set", "theirs", "--data", "digits", "--out", "new")
EVALUATE = ("evaluate", "--epochs", "1", "--networks", "1", "--baselines", "random", "--quiet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run and its expert store, for copying."""
    return made_in(tmp_path_factory.mktemp("finished"), *RUN)


@pytest.fixture
def desk(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the current one, with a cache elsewhere."""
    place = tmp_path / "desk"
    shutil.copytree(finished, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ASTDISTILL_DATA", raising=False)
    return place


def store() -> Path:
    (found,) = Path("experts").iterdir()
    return found


def half(name: str) -> Callable[[], None]:
    """Leaves the first half of a file, as a copy that was cut off does."""
    return lambda: _spoil(name, lambda whole: whole[: len(whole) // 2])


def emptied(name: str) -> Callable[[], None]:
    """Leaves a file of no bytes, as a power cut can."""
    return lambda: _spoil(name, lambda whole: b"")


def lost(*names: str) -> Callable[[], None]:
    """Leaves the folder without these files, as before they were written."""

    def remove() -> None:
        for name in names:
            Path(name).unlink()

    return remove


def text(name: str, words: str) -> Callable[[], None]:
    return lambda: _spoil(name, lambda whole: words.encode())


def _spoil(name: str, change: Callable[[bytes], bytes]) -> None:
    path = Path(name.replace("STORE", str(store())))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(change(path.read_bytes() if path.exists() else b""))


def partial() -> None:
    """The store as if its expert were still being trained, with a broken state."""
    (store() / "000.safetensors").unlink()
    _spoil("STORE/000.partial/state.safetensors", lambda _: b"half of a st")


def npz(**arrays: object) -> Callable[[], None]:
    return lambda: np.savez("own.npz", **arrays)  # pyright: ignore[reportArgumentType]


def pictures() -> None:
    """Pictures of two sizes in one folder."""
    from PIL import Image

    for name, side in (("cats", 8), ("dogs", 12)):
        for part in ("train", "test"):
            Path("own", part, name).mkdir(parents=True)
            Image.new("RGB", (side, side)).save(f"own/{part}/{name}/1.png")


def torn_picture() -> None:
    """A picture of which only the name is one."""
    pictures()
    Path("own/train/cats/1.png").write_bytes(b"no picture")


def theirs(*shape: int) -> Callable[[], None]:
    """A folder as MTT writes it, with images of that shape and no file of the learning rate; empty without a shape."""

    def made() -> None:
        Path("theirs").mkdir()
        if shape:
            torch.save(torch.zeros(*shape), "theirs/images_best.pt")

    return made


def table_with_names() -> None:
    """A parquet table whose labels are words."""
    import datasets
    from PIL import Image

    rows = {"image": [Image.new("RGB", (8, 8))] * 4, "animal": ["cat", "dog"] * 2}
    Path("own").mkdir()
    datasets.Dataset.from_dict(
        rows, features=datasets.Features({"image": datasets.Image(), "animal": datasets.Value("string")})
    ).to_parquet("own/train.parquet")


def other_network() -> None:
    """A trajectory of a larger network, put where this store's is."""
    from astdistill.runtime.files import save_tensors

    save_tensors(store() / "000.safetensors", {"rows": torch.zeros(4, 99)}, {"curves": {}})


def nothing() -> None:
    """Everything is in order; only the words are wrong."""


NOT_YET = (f"{MADE}/synthetic.safetensors", f"{MADE}/scores.json")
IMAGES = np.zeros((12, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(12) % 2

CASES: dict[str, tuple[Callable[[], None], tuple[str, ...], str]] = {
    "half state": (half(f"{MADE}/state.safetensors"), MORE, "state.safetensors is not a whole safetensors file"),
    "empty state": (emptied(f"{MADE}/state.safetensors"), RUN, "move it away and run the command that wrote it again"),
    "half config": (half(f"{MADE}/config.json"), RUN, "config.json cannot be read as JSON"),
    "list for a config": (text(f"{MADE}/config.json", "[]"), RUN, "config.json was not written by astdistill (it holds no JSON object)"),
    "half provenance": (half(f"{MADE}/provenance.json"), RUN, "provenance.json cannot be read as JSON"),
    "list for a provenance": (text(f"{MADE}/provenance.json", "[]"), RUN, "provenance.json was not written by astdistill"),
    "half scores, compared": (half(f"{MADE}/scores.json"), ("compare", MADE), "scores.json cannot be read as JSON"),
    "half expert": (half("STORE/000.safetensors"), FRESH[:-2], "000.safetensors is not a whole trajectory"),
    "half recipe": (half("STORE/recipe.json"), FRESH[:-2], "recipe.json cannot be read as JSON"),
    "empty object for a recipe": (text("STORE/recipe.json", "{}"), FRESH[:-2], "recipe.json does not describe experts (identity: "),
    "other recipe": (text("STORE/recipe.json", '{"identity": {"recipe": 3}}'), FRESH[:-2], "does not describe experts (recipe: "),
    "expert of another network": (other_network, FRESH[:-2], "000.safetensors holds rows of shape [4, 99] where [4, "),
    "half state of an expert": (partial, FRESH[:-2], "000.partial/state.safetensors is not a whole safetensors file"),
    "half set": (half(f"{MADE}/synthetic.safetensors"), (*EVALUATE, MADE), "synthetic.safetensors is not a whole safetensors file"),
    "half set to start from": (half(f"{MADE}/synthetic.safetensors"), (*FRESH, "--init", MADE), "is not a whole safetensors file"),
    "picture for a set": (nothing, (*EVALUATE, f"{MADE}/images.png"), "images.png is not a whole safetensors file"),
    "state for a set": (nothing, (*EVALUATE, f"{MADE}/state.safetensors"), "is not a distilled set"),
    "not finished, to evaluate": (lost(f"{MADE}/synthetic.safetensors"), (*EVALUATE, MADE), f"shows its progress: astdistill watch {MADE}"),
    "not finished, to compare": (lost(*NOT_YET), ("compare", MADE), f"The run in {MADE} is not finished; the command that began it"),
    "not finished, to export": (lost(*NOT_YET), ("export", MADE, "--format", "npz"), f"The run in {MADE} is not finished"),
    "no such config": (nothing, (*RUN, "--config", "nowhere.yaml"), "nowhere.yaml cannot be read (No such file or directory);"),
    "folder without a set": (nothing, (*EVALUATE, "experts"), "There is no file experts/synthetic.safetensors"),
    "no epochs": (nothing, (*EVALUATE, MADE, "--epochs", "0"), "--epochs cannot be 0; choose 1 or more. See: astdistill evaluate --help"),
    "no networks, before data are looked for": (nothing, (*EVALUATE, MADE, "--networks", "0", "--data", "nowhere/there"), "0 networks were asked for; train at least 1"),
    "no workers, before data are looked for": (nothing, (*EVALUATE, MADE, "--workers", "0", "--data", "nowhere/there"), "--workers cannot be 0; choose 1 or more. See: astdistill evaluate --help"),
    "no threads": (nothing, (*EVALUATE, MADE, "--threads", "0"), "--threads cannot be 0; choose 1 or more. See: astdistill evaluate --help"),
    "nothing to verify": (nothing, ("verify", "nowhere"), "There is no file or folder nowhere; name a run folder"),
    "no buffers, before data are looked for": (nothing, ("import-buffers", "nowhere", "--data", "nowhere/there"), "There is no file or folder nowhere; name a folder of replay_buffer_"),
    "no pairs": (nothing, ("run", "digits-ipc1", "--dry-run", "--evaluation.recipe.batches", "1:10", "10"), "--evaluation.recipe.batches cannot be '1:10 10'; give pairs of two whole numbers: 1:10 10:50."),
    "no set, before data are looked for": (nothing, ("import-set", "nowhere", "--data", "nowhere/there", "--out", "new"), "There is no folder nowhere; name the one that distill.py"),
    "no networks": (nothing, (*EVALUATE, MADE, "--networks", "0"), "0 networks were asked for; train at least 1"),
    "network that is not": (nothing, (*EVALUATE, MADE, "--architectures", "convnt"), "Did you mean 'convnet'?"),
    "file for a run": (nothing, (*RUN, "--out", f"{MADE}/images.png"), "--out runs/digits-ipc1/images.png is a file; name a folder"),
    "other things for a run": (nothing, (*RUN, "--out", "experts"), "experts is not empty and holds no run; name a new folder"),
    "file for scores": (nothing, (*EVALUATE, MADE, "--out", f"{MADE}/images.png/x"), "images.png, which is a file; name a folder"),
    "file for a page": (nothing, ("report", MADE, "--out", f"{MADE}/images.png/x"), "images.png, which is a file; name a folder"),
    "file for a table": (nothing, ("compare", MADE, "--out", f"{MADE}/images.png/x"), "images.png, which is a file; name a folder"),
    "file for an export": (nothing, ("export", MADE, "--format", "npz", "--out", f"{MADE}/images.png"), "is a file; name a folder"),
    "file for an ablation": (nothing, ("run", "ablation", "--base", *RUN[1:], f"--out={MADE}/images.png"), "is a file; name a folder"),
    "full folder for an export": (nothing, ("export", MADE, "--format", "npz", "--out", "experts"), "for example --out experts-2"),
    "no such format": (nothing, ("export", MADE, "--format", "npy"), "Did you mean 'npz'?"),
    "no run to look at": (nothing, ("watch", "nowhere", "--once"), "start one with: astdistill run PRESET --out nowhere"),
    "for ever between two looks": (nothing, ("watch", MADE, "--every", "inf"), "--every inf was given; choose a number of seconds above 0"),
    "no set to evaluate": (nothing, (*EVALUATE, "nowhere"), "astdistill demo makes one: runs/demo"),
    "images without a seam": (nothing, ("textures", MADE), "astdistill run PRESET --distill.canvas 2"),
    "no pool of that letter": (nothing, (*EVALUATE, MADE, "--architectures", "Q"), "There is no pool of networks 'Q'"),
    "no end of a rate": (nothing, (*EVALUATE, MADE, "--lr", "inf"), "--lr cannot be inf; choose a finite number. See:"),
    "no data at all": (nothing, (*FRESH, "--data", ""), "--data names nothing"),
    "no classes": (nothing, (*FRESH, "--data.classes"), "--data.classes names no class; name two or more"),
    "a word of no network": (nothing, (*FRESH, "--model", "convnet-d1-x4"), "There is no word 'x4' for model 'convnet-d1-x4'"),
    "no GPU for an ablation": (nothing, ("run", "ablation", "--base", *RUN[1:], "--device", "cuda:99"), "choose --device auto or cpu"),
    "no imported experts": (nothing, (*FRESH, "--experts.imported", "x"), "There is no store of experts 'x' in new-experts. Known: none"),
    "no set to import": (nothing, (*IMPORT, "--lr", "1"), "There is no folder theirs; name the one that distill.py"),
    "no images to import": (theirs(), (*IMPORT, "--lr", "1"), "theirs holds no images_best.pt"),
    "no rate to import": (theirs(10, 1, 8, 8), IMPORT, "give the learned learning rate of the set"),
    "no momentum": (theirs(10, 1, 8, 8), (*IMPORT, "--lr", "1", "--momentum", "3"), "--momentum 3 was given; choose 0 or more"),
    "no such augmentation": (theirs(10, 1, 8, 8), (*IMPORT, "--lr", "1", "--augmentation", "flp"), "Did you mean 'flip'?"),
    "no canvas": (theirs(10, 1, 8, 8), (*IMPORT, "--lr", "1", "--canvas", "0"), "--canvas 0 was given; choose 1 or more"),
    "a torn pickle": (text("theirs/images_best.pt", "hi"), (*IMPORT, "--lr", "1"), "is not a whole file of torch.save; copy it again"),
    "torn picture": (torn_picture, (*OWN, "own"), "1.png cannot be read as an image (cannot identify image file); replace it"),
    "store in a file": (nothing, (*FRESH[:-1], f"{MADE}/images.png/x"), "which is a file; name a folder"),
    "no GPU": (nothing, (*EVALUATE, MADE, "--device", "cuda:99"), "choose --device auto or cpu"),
    "no such device": (nothing, (*FRESH, "--device", "gpu"), "'gpu' is not a device; choose --device auto, cpu or cuda"),
    "npz cut off": (lambda: (npz(images=IMAGES, labels=LABELS)(), half("own.npz")())[0], (*OWN, "own.npz"), "or is only a part of one"),
    "text for an npz": (text("own.npz", "x_train, y_train"), (*OWN, "own.npz"), "own.npz cannot be read as an .npz file"),
    "table for a data set": (text("own.csv", "image, label"), (*OWN, "own.csv"), "is no table, in UTF-8, with a column that names pictures below"),
    "measured values for labels": (npz(images=IMAGES, labels=LABELS / 2), (*OWN, "own.npz"), "give one class per image, not a measured value"),
    "several labels to an image": (npz(images=IMAGES, labels=np.ones((len(LABELS), 3), int)), (*OWN, "own.npz"), "several per image (multi-label)"),
    "unequal sizes": (pictures, (*OWN, "own"), "--data.size"),
    "no such column": (table_with_names, (*OWN, "own", "--data.label-column", "animals"), "Did you mean 'animal'?"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_sentence_says_what_to_do_and_nothing_is_lost(
    name: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, words, sentence = CASES[name]
    prepare()
    capsys.readouterr()
    before = contents()
    assert main(words) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.startswith("astdistill: ")
    assert len([line for line in message.splitlines() if "no effect" not in line]) == 1
    after = contents()
    own = {
        Path(f"{MADE}/config.json"),
        Path(f"{MADE}/provenance.json"),
        *(path for path in after if path.parts[0] == "new"),
    }
    assert {path: after.get(path) for path in before.keys() - own} == {
        path: before[path] for path in before.keys() - own
    }
    assert not after.keys() - before.keys() - own - {path for path in after if path.name.endswith(".lock")}


def test_bad_surroundings_are_named(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    monkeypatch.setenv("ASTDISTILL_ENGINE", "nativ")
    assert main(FRESH) == 2
    assert "Did you mean 'native'?" in capsys.readouterr().err
    monkeypatch.delenv("ASTDISTILL_ENGINE")
    monkeypatch.setenv("ASTDISTILL_DATA", "no/such/folder")
    assert main(("run", "cifar100-ipc1", "--quiet")) == 2
    assert (
        "ASTDISTILL_DATA names no/such/folder, which is no folder; correct it, or unset it" in capsys.readouterr().err
    )
    assert contents() == before


@pytest.mark.parametrize("flag", ["--out", "--experts.store"])
def test_a_name_too_long_for_the_disk(flag: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents()
    assert main((*FRESH, flag, "x" * 300)) == 1
    message = capsys.readouterr().err
    assert "File name too long at xxx" in message
    assert "; name another --out or --experts.store" in message
    assert contents() == before


@pytest.mark.parametrize(("verb", "word"), [("verify", "PATH"), ("watch", "RUN")])
def test_a_verb_that_writes_nothing_names_no_flag_for_it(
    verb: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((verb, "x" * 300)) == 1
    assert f"; name another {word}." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "digits-ipc1", "--out", "loop"), "--out loop is a broken link; make the folder"),
        (("report", "loop"), "There is no folder loop"),
        (("watch", "loop"), "watch loop is a broken link"),
        (("watch", "s3://bucket/run"), "watch s3://bucket/run is an address; name a folder"),
        (("run", "digits-ipc1", "--out", "a\ud800"), "holds characters that no path can have; name another folder"),
    ],
)
def test_names_of_no_folder(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert contents() == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir(mode=0o500)
    assert main((*RUN, "--out", "mine/run")) == 1
    assert "Permission denied at mine/run; name another --out" in capsys.readouterr().err


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """The system refuses to make any file longer than that: a real failure to write, as on a full disk."""
    assert resource is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.drawn
@pytest.mark.skipif(resource is None, reason="no resource limits on this system")
@pytest.mark.parametrize("count", [100, 6_000, 20_000])
def test_a_disk_that_fills_up_anywhere_costs_nothing(
    count: int, finished: Path, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """safetensors raises its own exception here; a run whose first file did not fit must not be taken for a stranger's
    folder."""
    with files_of_at_most(count):
        assert main(FRESH) == 1
    message = capsys.readouterr().err
    assert "File too large at " in message
    assert "free some space, or name another --out or --experts.store. Finished work is kept." in message
    assert not [path for path in contents() if path.name.endswith(".tmp")]
    assert main(FRESH) == 0
    assert torch.equal(load("new").images, load(finished / MADE).images)


def test_no_room_for_the_tensors_is_said_with_the_file(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents()
    monkeypatch.setattr(os, "fsync", full)
    assert main(MORE) == 1
    assert f"No space left on device at {MADE}/config.json; free some space" in capsys.readouterr().err
    assert contents() == before


def test_a_lost_set_is_written_again(finished: Path, desk: Path) -> None:
    """The set follows from the state, so running the same command mends it."""
    half(f"{MADE}/synthetic.safetensors")()
    assert main(RUN) == 0
    assert torch.equal(load(MADE).images, load(finished / MADE).images)


def test_memory_that_does_not_suffice_is_one_sentence(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents()
    monkeypatch.setattr(sources, "resized", lambda *_: torch.empty(10**15))
    assert main(FRESH) == 1
    message = capsys.readouterr().err
    assert "Out of memory (" in message
    assert message.count("\n") == 1
    assert contents() == before
