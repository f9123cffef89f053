"""`astdistill import-buffers`, `import-set` and `export`: from words to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ..data.augmentation import STRATEGY
from ..data.dataset import DataConfig
from ..data.loading import load_dataset
from ..data.synthetic import load
from ..evaluation.scores import Scores
from ..interop import exporters as catalogue
from ..interop import huggingface
from ..interop import import_experts as buffers
from ..interop import import_sets as sets
from ..methods.registry import find_method
from ..report.figures import save_quality
from ..runtime.errors import InputError
from ..runtime.progress import be_quiet
from ..runtime.run_dir import RunDir
from .flags import call

SHOWN = 12
"""Files that are listed by name after an export."""


def import_buffers(words: list[str]) -> None:
    """Read experts into a store, and say how they do on the data."""
    call(_import_buffers, _with_data(words), "astdistill import-buffers")


def import_set(words: list[str]) -> None:
    """Read a distilled set into a run folder."""
    call(_import_set, _with_data(words), "astdistill import-set")


def export(words: list[str]) -> None:
    """Write a distilled set in another format."""
    call(_export, words, "astdistill export")


def _import_buffers(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    data: DataConfig,
    model: str = "convnet-d3",
    method: str = "mtt",
    store: Path = Path("experts"),
    dtype: Literal["float32", "bfloat16"] = "float32",
    quiet: bool = False,
) -> None:
    """Read the experts of MTT, FTD, TESLA, DATM or AST, replay_buffer_*.pt, into a store that distil and run can use.

    Nothing in the files is run: those that hold more than tensors are refused.

    Args:
        files: A folder of replay_buffer_*.pt, or files in the order of their experts.
        data: What the experts learned from, as for the other commands; --data NAME is short for --data.source NAME.
        model: The network that they are.
        method: The method whose expert recipe is noted down; it changes nothing else.
        store: Folder that holds one store for each import and each recipe.
        dtype: How rows are stored; bfloat16 halves the disk.
        quiet: No progress.
    """
    be_quiet(quiet)
    recipe = find_method(method).recipe
    if not files:
        raise InputError(
            "No buffer was named; name a folder of replay_buffer_*.pt: astdistill import-buffers FOLDER --data cifar100"
        )
    buffers.buffer_files(files)
    dataset = load_dataset(data)
    found = buffers.import_buffers(files, dataset, model=model, recipe=recipe, store=store, dtype=dtype)
    save_quality({method: found.curves()}, found.folder / "quality.png")
    reads, chance = buffers.last_accuracy(found, dataset), 100 / len(dataset.classes)
    console = Console()
    console.print(f"Experts: {found.folder} ({len(found)} of {found.epochs} epochs)", highlight=False)
    console.print(
        f"Check:   the first one's last row reads {reads:.1f} % of test images; chance is {chance:.1f} %.",
        highlight=False,
    )
    if reads < 2 * chance:
        console.print(
            "[yellow]That is hardly better than chance: were they trained on other data, in another order of the "
            "classes, or otherwise "
            "whitened (--data.whiten zca, or standard)?[/yellow]"
        )
    where = "" if store == Path("experts") else f" --experts.store {store}"
    console.print(f"Next:    astdistill distill PRESET{where} --experts.imported {found.folder.name}", highlight=False)


def _import_set(
    folder: Annotated[Path, tyro.conf.Positional],
    /,
    data: DataConfig,
    out: Path,
    lr: float | None = None,
    model: str = "convnet-d3",
    augmentation: str = STRATEGY,
    momentum: float = 0.0,
    method: str = "mtt",
    canvas: int = 1,
    canvas_samples: int = 1,
) -> None:
    """Read a distilled set of MTT or a successor, images_best.pt, labels_best.pt and lr.pt, into a run folder.

    Nothing in the files is run: those that hold more than tensors are refused.

    Args:
        folder: Folder of the three files; labels and step size may be absent.
        data: What was distilled, as for the other commands; --data NAME is short for --data.source NAME.
        out: New folder of synthetic.safetensors, its picture and its page.
        lr: The learned step size, where there is no file of it, or to replace it.
        model: The network that the set was distilled with.
        augmentation: DSA operations that its student saw, joined by underscores; empty for none.
        momentum: Momentum of its student.
        method: The method that made it.
        canvas: MTT's --canvas_size: how much larger than an image a texture is; 1 for ordinary images.
        canvas_samples: MTT's --canvas_samples: crops of each texture in a step.
    """
    sets.import_set(
        folder,
        load_dataset(data),
        lr=lr,
        model=model,
        augmentation=augmentation,
        momentum=momentum,
        method=method,
        canvas=canvas,
        canvas_samples=canvas_samples,
        out=out,
    )
    run = RunDir(out)
    shown = next(path for path in (run.page, run.images) if path.exists())
    Console().print(f"Look at:  {shown}\nNext:     astdistill evaluate {out}", highlight=False)


def _export(
    path: Annotated[Path, tyro.conf.Positional],
    /,
    format: str,
    out: Path | None = None,
    push: str | None = None,
    private: bool = False,
) -> None:
    """Write a distilled set for other programs.

    Args:
        path: A run folder, or the synthetic.safetensors of one.
        format: {formats}
        out: New folder of the files; none means exports/FORMAT beside the set.
        push: Upload the files to the Hugging Face hub as the data set of this name (with --format huggingface).
        private: Make that data set a private one, if it is not there yet.
    """
    synthetic, home = load(path), RunDir.around(path)
    if push is not None:
        if format != huggingface.HUGGINGFACE.name:
            raise InputError(
                f"The hub does not show '{format}'; type: astdistill export {path} --format huggingface --push {push}"
            )
        huggingface.check_push(push)
    elif private:
        raise InputError(
            f"Nothing is uploaded that could be private; name it: astdistill export {path} --format huggingface --push "
            f"NAME --private"
        )
    folder = out or home.exports / format
    catalogue.export(synthetic, format, folder, scores=_scores(path, home))
    console = Console()
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files[:SHOWN]:
        console.print(f"{file}", highlight=False)
    if len(files) > SHOWN:
        console.print(f"… and {len(files) - SHOWN:,} more in {folder}", highlight=False)
    kept = f"{synthetic.data.source}, whiten {synthetic.data.whiten}"
    console.print(f"{catalogue.FORMATS[format].text}. The set was made on {kept}.", highlight=False)
    if push is not None:
        console.print(f"Uploaded: {huggingface.push(folder, push, private)}", highlight=False)


def _scores(path: Path, home: RunDir) -> Scores | None:
    """The scores beside the set, which are those of the run's result and of no other file in its folder."""
    named = path in (home.folder, home.synthetic)
    return Scores.read(home.scores) if named and home.scores.is_file() else None


_export.__doc__ = (_export.__doc__ or "").format(
    formats=" ".join(f"{each.name}: {each.text}." for each in catalogue.FORMATS.values())
)


def _with_data(words: list[str]) -> list[str]:
    """`--data NAME` written out. Raises InputError where nobody says which data, since none is likely."""
    words = [
        f"--data.source{word.removeprefix('--data')}" if word == "--data" or word.startswith("--data=") else word
        for word in words
    ]
    said = any(word.split("=")[0] == "--data.source" for word in words)
    if not said and not {"-h", "--help"} & set(words):
        raise InputError(
            "Say which data these files were made from, whitened as they were: --data cifar100 --data.whiten zca"
        )
    return words
