"""The head of the page: what a run is in one line, its facts, and whether several runs may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from ...data.synthetic import SyntheticSet
from ...evaluation.scores import SetInfo, spread
from ...methods.registry import methods
from ...runtime.status import duration
from ..run import RunReader

DATA_NAMES = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "tiny_imagenet": "Tiny ImageNet",
}
"""Well-known data sets as papers write them, by the name of the source or of its folder."""
METHOD_NAMES = {"rat-bptt": "RaT-BPTT"}
"""Methods whose papers do not write them in capitals."""
AS_RELEASED = "-as-released"


def title(run: RunReader) -> str:
    """One line: the data, the number of images per class, and the method."""
    if run.synthetic is None:
        return f"{method_name(run.method)} · not distilled yet"
    parts = data_name(run.synthetic), _per_class(run.synthetic), method_name(run.synthetic.method)
    return " · ".join(filter(None, parts))


def data_name(synthetic: SyntheticSet) -> str:
    """The data set's name as papers write it, with the part of it that was used, if not all of it was."""
    name = SetInfo.of(synthetic).data
    source = PurePath(synthetic.data.source.removeprefix("tensors:")).name
    if source in DATA_NAMES and name.startswith(source):
        return DATA_NAMES[source] + name[len(source) :]
    return name


def method_name(name: str) -> str:
    """The name of a method: as its paper writes it for a method of this package, unchanged for any other."""
    base = name.removesuffix(AS_RELEASED)
    if name not in methods():
        return name
    return METHOD_NAMES.get(base, base.upper()) + " as released" * name.endswith(AS_RELEASED)


def _per_class(synthetic: SyntheticSet) -> str:
    kind = ["image", "texture"][synthetic.canvas > 1]
    return f"{synthetic.ipc:,} {kind}{'s' * (synthetic.ipc != 1)} per class"


def facts(run: RunReader) -> list[tuple[str, str]]:
    """Date, duration, iterations, experts with their accuracy, network and labels, as far as they are known."""
    entries: dict[str, str] = {}
    if run.date is not None:
        entries["date"] = f"{run.date.day} {run.date:%B %Y}"
    if run.seconds:
        entries["duration"] = duration(run.seconds)
    if run.metrics:
        entries["iterations"] = f"{len(run.metrics):,}"
    if run.experts is not None:
        entries["experts"] = _experts(run)
    if run.synthetic is not None:
        entries["network"] = run.synthetic.model
        entries["synthetic images"] = f"{len(run.synthetic.images):,}, {run.synthetic.labels} labels"
    return [(name, text) for name, text in entries.items() if text]


def _experts(run: RunReader) -> str:
    """The number of experts, and their test accuracy after the last epoch."""
    assert run.experts is not None
    accuracies = [curve.test_accuracy[-1] for curve in run.experts.curves if curve.test_accuracy]
    count = str(len(run.experts.curves))
    if not accuracies:
        return count
    return f"{count}, test accuracy {spread(accuracies)} %"


def different_data(runs: Sequence[RunReader]) -> str:
    """A sentence that warns against comparing runs on different data; '' if all are on the same, or do not state it."""
    groups: dict[str, list[RunReader]] = {}
    for run in runs:
        if run.fingerprint:
            groups.setdefault(run.fingerprint, []).append(run)
    if len(groups) < 2:
        return ""
    names = {fingerprint: _data_name_of(group[0]) for fingerprint, group in groups.items()}
    if len(set(names.values())) < len(names):
        names = {fingerprint: f"{name}, fingerprint {fingerprint[:8]}" for fingerprint, name in names.items()}
    texts = [f"{' and '.join(run.name for run in group)} on {names[each]}" for each, group in groups.items()]
    return (
        f"These runs were made on different data: {'; '.join(texts)}. Their accuracies and losses cannot be compared "
        "with one another."
    )


def _data_name_of(run: RunReader) -> str:
    """The name of the data of a run."""
    if run.synthetic is None:
        return "data without a name"
    return data_name(run.synthetic)
