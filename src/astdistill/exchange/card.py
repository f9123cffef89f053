"""The card of a data set on the Hugging Face hub: what it is, its figures with their protocol, how to use it, whom to cite."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import InputError
from ..evaluation import Scores, Subject, table
from ..methods import find_method
from ..synthetic import SyntheticSet
from ..tabulation import markdown

ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
PICTURE = "images.png"
"""The picture beside the card."""
WHITENING = {
    "none": "pixels in [0, 1]: nothing was subtracted or divided",
    "standard": "pixels less the mean and divided by the deviation of their channel",
    "zca": "pixels whitened by ZCA, which mixes all pixels of an image",
}


def card(synthetic: SyntheticSet, scores: Scores | None, parts: str) -> str:
    """README.md of the folder, with the front matter that the hub reads; `parts` are the parquet files of the train split."""
    title = f"{_title(synthetic)}, {synthetic.ipc} distilled {'image' if synthetic.ipc == 1 else 'images'} per class"
    sections = {
        "Figures": _figures(scores),
        "Columns": _columns(synthetic),
        "Use": _use(synthetic),
        "How it was made": _made(synthetic),
        "Citation": _citation(synthetic.method),
    }
    body = "\n\n".join(f"## {head}\n\n{text}" for head, text in sections.items())
    return (
        f"---\n{_front(synthetic, title, parts)}\n---\n\n# {title}\n\n![The distilled images]({PICTURE})\n\n"
        f"A synthetic data set made by trajectory matching with astdistill: networks are trained on these images alone.\n\n{body}\n"
    )


def _front(synthetic: SyntheticSet, title: str, parts: str) -> str:
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        license="unknown",  # that of the real images, which we do not know, may hold for what was made of them
        task_categories=["image-classification"],
        tags=["dataset-distillation", "synthetic", "trajectory-matching"],
        pretty_name=title,
        size_categories=[_size(len(synthetic.images))],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": parts}]}],
    )
    return data.to_yaml()


def _size(count: int) -> str:
    return "n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K" if count < 100_000 else "100K<n<1M"


def _title(synthetic: SyntheticSet) -> str:
    return Subject.of(synthetic).data


def _figures(scores: Scores | None) -> str:
    return "No network has been evaluated yet." if scores is None else markdown(table(scores)).strip()


def _columns(synthetic: SyntheticSet) -> str:
    channels, height, width = synthetic.images.shape[1:]
    rows = [
        ("image", "the image to look at: whitening undone, clipped to [0, 1], 8 bits (lossless PNG)"),
        ("label", f"its class, one of {len(synthetic.classes)}"),
    ]
    if not synthetic.certain:
        rows.append(("soft_label", "what networks are trained to say: a probability for each class"))
    rows.append(("values", f"the image to train on, float32 [{channels}, {height}, {width}], as networks see it"))
    lines = "\n".join(f"| `{name}` | {text} |" for name, text in rows)
    textures = ""
    if synthetic.canvas > 1:
        textures = (
            f" Images are textures without borders, {synthetic.canvas} times as large as what a network sees: it learns from random "
            f"circular crops of {height // synthetic.canvas} × {width // synthetic.canvas}, {synthetic.canvas_samples} of each in a step."
        )
    return (
        f"| column | |\n|---|---|\n{lines}\n\n8 bits lose what lies between their steps and outside [0, 1]: train on `values`, which are "
        f"exact. They are {WHITENING[synthetic.preprocessing.kind]}, and images to be tested on must be prepared by the same numbers, "
        f"which `synthetic.safetensors` holds.{textures}"
    )


def _use(synthetic: SyntheticSet) -> str:
    augmentation = synthetic.augmentation.replace("_", ", ") or "none"
    return (
        "The images alone, by `datasets.load_dataset`; or with step size, augmentation and whitening, from a copy of this folder:\n\n"
        '```python\nimport astdistill as ad\nsynthetic = ad.load("synthetic.safetensors")\nnetwork = synthetic.train(my_network)\n'
        "logits = network(synthetic.preprocessing.apply(photos))    # photos in [0, 1]\n```\n\n"
        f"The learned step size is {float(synthetic.lr):.6g}; augmentation by DSA: {augmentation}."
    )


def _made(synthetic: SyntheticSet) -> str:
    known = synthetic.provenance
    facts: dict[str, Any] = {
        "method": synthetic.method or "unknown",
        "student network": synthetic.model,
        "real data": Subject.of(synthetic).data,
        "whitening": synthetic.preprocessing.kind,
        "labels": synthetic.labels,
        "momentum of the student": synthetic.momentum,
        **{name: known[name] for name in ("iteration", "seed", "commit") if known.get(name) is not None},
        **{f"{name} (version)": version for name, version in known.get("versions", {}).items() if name in ("astdistill", "torch")},
    }
    lines = "\n".join(f"* {name}: {value}" for name, value in facts.items())
    settings = json.dumps(known["settings"], indent=2) if "settings" in known else ""
    return f"{lines}\n\n```json\n{settings}\n```" if settings else lines


def _citation(method: str) -> str:
    """The paper of the method, where the method is known."""
    try:
        paper = find_method(method).paper
    except InputError:
        return f"The method '{method}' names no paper; ask whoever published this set." if method else "The method is not known."
    links = "".join(f" <https://arxiv.org/abs/{number}>" for number in ARXIV.findall(paper))
    return f"Please cite the paper of the method: {paper}.{links}"
