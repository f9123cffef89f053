"""A data set folder that `datasets.load_dataset` opens, with a card, and its way to the Hugging Face hub."""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import InputError
from ..evaluation import Scores
from ..report import colours, save_grid
from ..runs import replacing, write_text
from ..synthetic import SyntheticSet
from .card import PICTURE, card
from .formats import Format

PARTS = "data/train-00000-of-00001.parquet"


def _write(synthetic: SyntheticSet, scores: Scores | None, folder: Path) -> None:
    save_grid(synthetic, folder / PICTURE)
    synthetic.save(folder / "synthetic.safetensors")
    if scores is not None:
        scores.write(folder / "scores.json")
    _write_parquet(synthetic, folder / PARTS)
    write_text(folder / "README.md", card(synthetic, scores, PARTS))


def _write_parquet(synthetic: SyntheticSet, path: Path) -> None:
    """One row an image: `image`, `label`, `soft_label` where targets are not one-hot, and `values`, the floats themselves."""
    import datasets
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    count = len(synthetic.classes)
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=list(synthetic.classes)),
        **({} if synthetic.certain else {"soft_label": datasets.Sequence(datasets.Value("float32"), length=count)}),
        "values": datasets.Array3D(tuple(synthetic.images.shape[1:]), "float32"),
    }
    columns = {
        "image": [{"bytes": data, "path": None} for data in _encoded(synthetic)],
        "label": synthetic.hard_labels.tolist(),
        "soft_label": synthetic.probabilities.detach().cpu().numpy(),
        "values": synthetic.images.detach().float().cpu().numpy(),
    }
    rows = datasets.Dataset.from_dict({name: columns[name] for name in features}, features=datasets.Features(features))
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with replacing(path) as temporary:
            rows.to_parquet(str(temporary))
    finally:
        if shown:
            enable_progress_bar()


def _encoded(synthetic: SyntheticSet) -> list[bytes]:
    """The pixels as PNG files: one channel grey, three as RGB, any other number as their grey mean."""
    from PIL import Image

    found = []
    for picture in colours(synthetic.pixels()):
        stream = io.BytesIO()
        Image.fromarray(picture if synthetic.images.shape[1] == 3 else picture[..., 0]).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


HUGGINGFACE = Format(
    "huggingface",
    "a data set folder with a card, parquet (image, label, soft_label, values), its picture and synthetic.safetensors; "
    "datasets.load_dataset(FOLDER) opens it",
    _write,
)


def check_push(name: str) -> None:
    """Raise InputError, before anything is written, for a name that the hub would not take, and where nobody is logged in."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"'{name}' is no name of a data set on the hub; give one like --push YOUR-NAME/digits-ipc1") from error
    if get_token() is None:
        raise InputError(
            "Nobody is logged in to the Hugging Face hub here; type: hf auth login (or set HF_TOKEN), then this command again."
        )


def push(folder: Path, name: str, private: bool = False) -> str:
    """The address of the data set `name` on the hub, which now holds the files of `folder`; it is made if there is none.

    Raises InputError where the hub refuses or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    check_push(name)
    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset", commit_message="Distilled set, exported by astdistill")
    except Exception as error:  # each version of the library has another HTTP client, with its own errors
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"The hub did not take '{name}' ({first}); {folder} is whole, so try again with: hf upload {name} {folder} --repo-type dataset"
        ) from error
    return str(address)
