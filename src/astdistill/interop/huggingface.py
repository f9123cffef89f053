"""A data set folder that `datasets.load_dataset` opens, with its card, and its upload to the Hugging Face hub."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from ..data.synthetic import SyntheticSet
from ..evaluation.scores import Scores, SetInfo, table
from ..methods.method import Method
from ..methods.registry import find_method
from ..report.pictures import colours, save_grid
from ..runtime.errors import InputError
from ..runtime.files import replacing, write_text
from ..runtime.run_dir import RunDir
from ..runtime.tables import markdown
from .formats import Format
from .reproduction import again

ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
SIZES = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}
"""The hub's size categories, by the number of images that each is below."""
WHITENING = {
    "none": "pixels in [0, 1]: nothing was subtracted or divided",
    "standard": "pixels minus the mean, divided by the standard deviation of their channel",
    "zca": "pixels whitened by ZCA, which mixes all pixels of an image",
    "rat": "pixels of each image minus their mean, divided by their norm, then whitened, which mixes all pixels",
}


def card(synthetic: SyntheticSet, scores: Scores | None, parts: str) -> str:
    """README.md of the folder, with the front matter that the hub reads; `parts` are the parquet files of the train
    split."""
    sections = {
        "Figures": _figures(scores),
        "Measure it again": f"In a copy of this folder:\n\n{again(synthetic, scores, '.')}",
        "Columns": _columns(synthetic),
        "Use": f"The images alone, by `datasets.load_dataset`; or, in a copy of this folder:\n\n{_use(synthetic, '.')}",
    }
    return f"---\n{_front(synthetic, _title(synthetic), parts)}\n---\n\n{_page(synthetic, sections, picture=True)}"


def described(synthetic: SyntheticSet, scores: Scores | None, folder: str | Path, picture: bool) -> str:
    """README.md of a set in `folder`, as Markdown; `picture`: whether the folder holds the picture too."""
    sections = {
        "Figures": _figures(scores),
        "Measure it again": again(synthetic, scores, folder),
        "Use": _use(synthetic, str(folder)),
    }
    return _page(synthetic, sections, picture)


def _page(synthetic: SyntheticSet, sections: dict[str, str], picture: bool) -> str:
    """The title, the picture, one sentence, and the sections followed by those of every card."""
    sections |= {"How it was made": _provenance_text(synthetic), "Citation": _citation(synthetic.method)}
    body = "\n\n".join(f"## {head}\n\n{text}" for head, text in sections.items())
    family, by_family = _family(synthetic.method), ""
    if family:
        by_family = f" by {family}"
    image = f"![The distilled images]({RunDir.images})\n\n" * picture
    return (
        f"# {_title(synthetic)}\n\n{image}"
        f"A synthetic data set made{by_family} with astdistill: networks are trained on these images alone.\n\n{body}\n"
    )


def _method(name: str) -> Method | None:
    """The method called `name`; None where it is unknown."""
    try:
        return find_method(name)
    except InputError:
        return None


def _family(name: str) -> str:
    """The family of the method's outer step; '' for an unknown method."""
    method = _method(name)
    if method is None:
        return ""
    return method.step.family


def _front(synthetic: SyntheticSet, title: str, parts: str) -> str:
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        license="unknown",  # the license of the real images, which is not known here, may apply
        task_categories=["image-classification"],
        tags=["dataset-distillation", "synthetic", *_family(synthetic.method).replace(" ", "-").split()],
        pretty_name=title,
        size_categories=[_size(len(synthetic.images))],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": parts}]}],
    )
    return data.to_yaml()


def _size(count: int) -> str:
    for limit, category in SIZES.items():
        if count < limit:
            return category
    return "100K<n<1M"


def _title(synthetic: SyntheticSet) -> str:
    return f"{SetInfo.of(synthetic).data}, {synthetic.ipc} distilled image{'s' * (synthetic.ipc != 1)} per class"


def _figures(scores: Scores | None) -> str:
    if scores is None:
        return "No network has been evaluated yet."
    return markdown(table(scores)).strip()


def _columns(synthetic: SyntheticSet) -> str:
    channels, height, width = synthetic.images.shape[1:]
    rows = [
        ("image", "the image to look at: whitening undone, clipped to [0, 1], 8 bits (lossless PNG)"),
        ("label", f"its class, one of {len(synthetic.classes)}"),
    ]
    if not synthetic.certain:
        weights_text = {"weights": "the weight of each class in the loss, −Σ weight · log p"}
        text = weights_text.get(synthetic.labels, "what networks are trained to say: a probability for each class")
        rows.append(("soft_label", text))
    rows.append(("values", f"the image to train on, float32 [{channels}, {height}, {width}], as networks see it"))
    lines = "\n".join(f"| `{name}` | {text} |" for name, text in rows)
    textures = ""
    if synthetic.canvas > 1:
        textures = (
            f" Images are textures without borders, {synthetic.canvas} times as large as what a network sees: "
            f"it learns from random circular crops of {height // synthetic.canvas} × {width // synthetic.canvas}, "
            f"{synthetic.canvas_samples} of each in a step."
        )
    if synthetic.factor > 1:
        textures = (
            f" An image is stored as a slot of {synthetic.factor} × {synthetic.factor} sub-images, each of which is "
            f"enlarged bilinearly before use. Rows are the enlarged ones, {synthetic.seen} in all; "
            f"`synthetic.safetensors` holds the {len(synthetic.images)} slots."
        )
    return (
        f"| column | |\n|---|---|\n{lines}\n\n8 bits lose what lies between their steps and outside [0, 1]: "
        f"train on `values`, which are exact. They are {WHITENING[synthetic.preprocessing.kind]}, and images to be "
        f"tested on must be prepared by the same numbers, which `synthetic.safetensors` holds.{textures}"
    )


def _use(synthetic: SyntheticSet, path: str) -> str:
    augmentation = synthetic.augmentation.replace("_", ", ") or "none"
    completion = ""
    if not synthetic.preprocessing.is_complete:  # its matrix comes with the real data
        completion = (
            "dataset = ad.load_dataset(synthetic.data)\nsynthetic = synthetic.completed(dataset.preprocessing)\n"
        )
    return (
        f'```python\nimport astdistill as ad\nsynthetic = ad.load("{path}")\n{completion}'
        "network = synthetic.train(my_network)\n"
        "logits = network(synthetic.preprocessing.apply(photos))    # photos in [0, 1]\n```\n\n"
        f"The {_learned_text(synthetic)}learning rate is {float(synthetic.lr):.6g}; augmentation by DSA: "
        f"{augmentation}."
    )


def _learned_text(synthetic: SyntheticSet) -> str:
    """'learned ', or '' where the learning rate is known not to be learned: sets of earlier versions do not record
    what was learned, so that their method is looked up."""
    learned, method = synthetic.provenance.get("learn"), _method(synthetic.method)
    if learned is None and method is not None:
        learned = method.learn
    if learned is None or "lr" in learned:
        return "learned "
    return ""


def _provenance_text(synthetic: SyntheticSet) -> str:
    origin = synthetic.provenance
    facts: dict[str, Any] = {
        "method": synthetic.method or "unknown",
        "student network": synthetic.model,
        "real data": SetInfo.of(synthetic).data,
        "whitening": synthetic.preprocessing.kind,
        "labels": synthetic.labels,
        "momentum of the student": synthetic.momentum,
        **{name: origin[name] for name in ("iteration", "seed", "commit") if origin.get(name) is not None},
        **{
            f"{name} (version)": version
            for name, version in origin.get("versions", {}).items()
            if name in ("astdistill", "torch")
        },
    }
    lines = "\n".join(f"* {name}: {value}" for name, value in facts.items())
    settings = _used_settings(origin.get("settings", {}), _method(synthetic.method))
    settings |= {name: origin[name] for name in ("step",) if name in origin}
    if not settings:
        return lines
    return f"{lines}\n\n```json\n{json.dumps(settings, indent=2)}\n```"


def _used_settings(settings: dict[str, Any], method: Method | None) -> dict[str, Any]:
    """Those of the distillation's settings that the method's outer step reads."""
    if method is None:
        return settings
    return {name: value for name, value in settings.items() if not f"distill.{name}".startswith(method.ignores)}


def _citation(method: str) -> str:
    """The paper of the method, or a sentence where it is unknown."""
    found = _method(method)
    if not method:
        return "The method is not known."
    if found is None:
        return f"The method '{method}' names no paper; ask whoever published this set."
    paper = found.paper
    links = "".join(f" <https://arxiv.org/abs/{number}>" for number in ARXIV.findall(paper))
    return f"Please cite the paper of the method: {paper}.{links}"


def parts_of(synthetic: SyntheticSet) -> str:
    """The path of the parquet file, with a hash of its contents: `datasets` caches tables by name and would otherwise
    return another set that it has read before."""
    contents = (
        synthetic.images.detach().cpu().contiguous().numpy().tobytes(),
        synthetic.targets.detach().cpu().contiguous().numpy().tobytes(),
    )
    return f"data/train-00000-of-00001-{hashlib.sha256(b''.join(contents)).hexdigest()[:12]}.parquet"


def _write_folder(synthetic: SyntheticSet, scores: Scores | None, folder: Path) -> None:
    save_grid(synthetic, RunDir(folder).images)
    synthetic.save(RunDir(folder).synthetic)
    if scores is not None:
        scores.write(RunDir(folder).scores)
    parts = parts_of(synthetic)
    _write_parquet(synthetic.decoded(), folder / parts)
    write_text(folder / "README.md", card(synthetic, scores, parts))


def _write_parquet(synthetic: SyntheticSet, path: Path) -> None:
    """Write one row per image: `image`, `label`, `soft_label` where targets are not one-hot, and `values`, the floats
    themselves."""
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
        "image": [{"bytes": data, "path": None} for data in _png_files(synthetic)],
        "label": synthetic.hard_labels.tolist(),
        "soft_label": synthetic.probabilities.detach().cpu().numpy(),
        "values": synthetic.images.detach().float().cpu().numpy(),
    }
    rows = datasets.Dataset.from_dict({name: columns[name] for name in features}, features=datasets.Features(features))
    enabled = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with replacing(path) as temporary:
            rows.to_parquet(str(temporary))
    finally:
        if enabled:
            enable_progress_bar()


def _png_files(synthetic: SyntheticSet) -> list[bytes]:
    """The pixels as PNG files: one channel grey, three as RGB, any other number as their grey mean."""
    from PIL import Image

    pictures, files = colours(synthetic.pixels()), []
    if synthetic.images.shape[1] != 3:
        pictures = pictures[..., 0]
    for picture in pictures:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


HUGGINGFACE = Format(
    "huggingface",
    "a data set folder with a card, parquet (image, label, soft_label, values), its picture and synthetic.safetensors; "
    "datasets.load_dataset(FOLDER) opens it",
    _write_folder,
    keeps_slots=True,
)


def check_push(name: str) -> None:
    """Raise InputError, before anything is written, for a name that the hub does not accept, and where no user is
    logged in."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"'{name}' is no name of a data set on the hub; give one like --push YOUR-NAME/digits-ipc1"
        ) from error
    if get_token() is None:
        raise InputError(
            "You are not logged in to the Hugging Face hub here; "
            "type: hf auth login (or set HF_TOKEN), then this command again."
        )


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload the files of `folder` to the data set `name` on the hub, which is created if absent; returns its address.

    Raises InputError where the hub refuses or cannot be reached; the folder stays unchanged.
    """
    from huggingface_hub import HfApi

    check_push(name)
    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Distilled set, exported by astdistill",
        )
    except Exception as error:  # each version of the library has another HTTP client, with its own errors
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"The hub did not take '{name}' ({first}); {folder} is whole, "
            f"so try again with: hf upload {name} {folder} --repo-type dataset"
        ) from error
    return str(address)
