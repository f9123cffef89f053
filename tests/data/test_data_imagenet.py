"""ImageNet cut down: a thousand class folders, most of them empty, and a parquet file with a thousand class names."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from astdistill.cli.options import parse
from astdistill.data.dataset import DataConfig
from astdistill.data.image_folders import IMAGENET_SUBSETS, synset_names
from astdistill.data.loading import load_dataset
from astdistill.data.preprocessing import Preprocessing
from astdistill.data.sources import published_statistics
from astdistill.runtime.errors import InputError

WNIDS = [f"n{10 * number + 1440764:08d}" for number in range(1000)]
STANDARD = Preprocessing.standard([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], (3, 128, 128))


def write_jpeg(path: Path, shade: int, size: tuple[int, int] = (20, 16)) -> None:
    """A plain picture, so that its shade survives the compression and any resizing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), shade, np.uint8)).save(path, "JPEG")


def shades(images: torch.Tensor) -> list[int]:
    return (images.mean(dim=(1, 2, 3)) * 255).round().int().tolist()


@pytest.fixture
def ilsvrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`imagenet/` with all class folders; of 'nette' two training pictures and one validation picture, their shade is
    the place."""
    folder = tmp_path / "imagenet"
    for part in ("train", "val"):
        for wnid in WNIDS:
            (folder / part / wnid).mkdir(parents=True)
    for place, index in enumerate(IMAGENET_SUBSETS["nette"]):
        for number in range(2):
            write_jpeg(
                folder / "train" / WNIDS[index] / f"{WNIDS[index]}_{number}.JPEG",
                10 * place + number,
                (20 + number, 16),
            )
        write_jpeg(folder / "val" / WNIDS[index] / f"ILSVRC2012_val_{place:08d}.JPEG", 10 * place + 5)
    write_jpeg(folder / "test" / "ILSVRC2012_test_00000001.JPEG", 255)
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    return folder


def test_a_subset_by_class_index(ilsvrc: Path) -> None:
    nette = load_dataset("imagenet-nette", whiten="none")
    assert (nette.name, nette.shape) == ("imagenet-nette", (3, 128, 128))
    assert nette.classes == tuple(WNIDS[index] for index in IMAGENET_SUBSETS["nette"])
    assert nette.class_sizes() == [2] * 10
    places = [round(shade / 10) for shade in shades(nette.train.whole())]
    assert places == nette.train.labels.tolist()
    assert shades(nette.test.whole()) == [10 * label + 5 for label in nette.test.labels.tolist()]
    assert load_dataset("imagenet-nette").preprocessing.hash == STANDARD.hash


def test_a_preset_finds_its_subset_in_a_folder_of_all_classes(ilsvrc: Path) -> None:
    nette = load_dataset("imagenet-nette")
    everything = ilsvrc.rename(ilsvrc.parent / "ILSVRC2012")
    request = parse("run", ["imagenet-nette-ipc1-mtt", "--data", str(everything)])
    found = load_dataset(request.experiment.data)
    assert (found.classes, found.shape, found.class_sizes()) == (nette.classes, nette.shape, nette.class_sizes())
    assert torch.equal(found.train.whole(), nette.train.whole())
    assert parse("run", ["cifar10-ipc1", "--data", str(everything)]).experiment.data.classes is None


def test_any_size_and_a_choice_within_the_subset(ilsvrc: Path) -> None:
    few = load_dataset("imagenet-nette", size=24, first_classes=3, whiten="none")
    assert (few.shape, few.classes) == ((3, 24, 24), tuple(WNIDS[index] for index in IMAGENET_SUBSETS["nette"][:3]))
    named = load_dataset("imagenet-nette", size=24, classes=[WNIDS[701], WNIDS[0]], whiten="none")
    assert sorted(shades(named.test.whole())) == [5, 95]
    assert dict(zip(named.test.labels.tolist(), shades(named.test.whole()), strict=True)) == {0: 95, 1: 5}


def test_classes_of_ones_own(ilsvrc: Path) -> None:
    """By index from the known name, by name from the folder itself; the subsets keep their own order of classes."""
    own = load_dataset("imagenet", classes=[701, 0, 482], size=16)
    assert own.classes == (WNIDS[701], WNIDS[0], WNIDS[482])
    folder = load_dataset(str(ilsvrc), classes=[WNIDS[701], WNIDS[0], WNIDS[482]], size=16)
    assert (folder.name, folder.fingerprint) == ("imagenet", own.fingerprint)
    with pytest.raises(InputError, match="holds no pictures"):
        load_dataset("imagenet-woof")


def test_only_the_folders_of_the_chosen_classes_are_read(ilsvrc: Path) -> None:
    (ilsvrc / "train" / WNIDS[3] / "broken.JPEG").write_bytes(b"no picture")
    assert len(load_dataset("imagenet-nette", size=8).train) == 20
    with pytest.raises(InputError, match=r"broken\.JPEG cannot be read"):
        load_dataset("imagenet", classes=(WNIDS[0], WNIDS[3]), size=8)


@pytest.mark.parametrize("file", ["words.txt", "LOC_synset_mapping.txt"])
def test_words_name_the_classes(ilsvrc: Path, file: str) -> None:
    space = "\t" if file == "words.txt" else " "
    before = load_dataset("imagenet-nette", size=8)
    (ilsvrc / file).write_text(
        f"{WNIDS[0]}{space}tench, Tinca tinca\n{WNIDS[217]}{space}English springer\nn99999999{space}else\n"
    )
    named = load_dataset("imagenet-nette", size=8)
    assert named.classes[:3] == ("tench", "English springer", WNIDS[482])
    assert named.fingerprint != before.fingerprint
    assert load_dataset("imagenet", size=8, classes=["English springer", "tench"]).class_sizes() == [2, 2]


def test_words_that_several_classes_share() -> None:
    text = "n1\tcrane\nn2\tcrane, lifter\nn3 maillot\nn4 maillot\n"
    assert synset_names(["n1", "n2", "n3", "n4", "n5"], text) == ("crane", "crane, lifter", "n3", "n4", "n5")


def test_the_hubs_parquet_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "imagenet" / "data"
    folder.mkdir(parents=True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[f"name {k}" for k in range(1000)])}
    )

    def write(part: str, labels: list[int]) -> None:
        cells = []
        for label in labels:
            stream = io.BytesIO()
            Image.fromarray(np.full((12, 16, 3), label % 250 if label >= 0 else 0, np.uint8)).save(stream, "PNG")
            cells.append({"bytes": stream.getvalue(), "path": None})
        datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(
            folder / f"{part}-00000-of-00001.parquet"
        )

    fruit = list(IMAGENET_SUBSETS["fruit"])
    write("train", [*sorted(fruit), 3, *fruit])
    write("validation", fruit)
    write("test", [-1, -1])
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    found = load_dataset("imagenet-fruit", size=8, whiten="none")
    assert found.classes == tuple(f"name {index}" for index in fruit)
    assert found.class_sizes() == [2] * 10
    for part in (found.train, found.test):
        assert shades(part.whole()) == [fruit[label] % 250 for label in part.labels.tolist()]


def test_without_imagenet_the_sentence_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASTDISTILL_DATA", raising=False)
    with pytest.raises(InputError, match=r"imagenet-meow is cut out of a local copy.*ASTDISTILL_DATA"):
        load_dataset("imagenet-meow")
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    with pytest.raises(InputError, match="ASTDISTILL_DATA"):
        load_dataset(DataConfig(source="imagenet"))
    with pytest.raises(InputError, match="Did you mean 'imagenet-squawk'"):
        load_dataset("imagenet-squak")


def test_a_part_of_imagenet_cannot_be_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wnid in WNIDS[:3]:
        write_jpeg(tmp_path / "imagenet/train" / wnid / "0.JPEG", 9)
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"among the 1000 .* holds 3 class folders"):
        load_dataset("imagenet-nette")


@pytest.mark.parametrize(
    "name", ["imagenet", "imagenet-yellow", "Tiny-ImageNet", "tiny-imagenet-200", "imagenette2-160", "ILSVRC2012"]
)
def test_statistics_of_what_derives_from_imagenet(
    name: str, tmp_path: Path, write_pictures: Callable[..., None]
) -> None:
    assert published_statistics(name) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert published_statistics(f"my-{name}") is None


def test_the_subsets_are_ten_classes_each() -> None:
    assert {len(set(classes)) for classes in IMAGENET_SUBSETS.values()} == {10}
    assert all(0 <= index < 1000 for classes in IMAGENET_SUBSETS.values() for index in classes)
