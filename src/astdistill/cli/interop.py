"""`astdistill import-buffers`, `import-set`, `export` and `get`: exchange with other programs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..data.augmentation import STRATEGY
from ..data.dataset import DataConfig
from ..data.description import Description
from ..data.loading import load_dataset
from ..data.preprocessing import IncompleteError
from ..data.synthetic import load
from ..evaluation.scores import Scores
from ..interop import exporters as catalogue
from ..interop import huggingface, published
from ..interop import import_experts as buffers
from ..interop import import_sets as sets
from ..interop.reproduction import command as command_again
from ..methods.registry import find_method, methods
from ..report.current_scores import current_evaluation, outdated_message
from ..report.figures import save_quality
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import warn
from ..runtime.run_dir import RunDir
from ..runtime.tables import terminal
from ..runtime.terminal import Terminal
from ..runtime.text import many
from .commands import command
from .data import print_data_briefly
from .flags import Word
from .table_folder import check_single

SHOWN = 12
"""Files that are listed by name after an export."""


DATA = DataConfig(source="")
"""There is no likely default: the user must name the data."""


class ImportBuffers(Record):
    """Import experts of the code of MTT, FTD, TESLA, DATM or AST (replay_buffer_*.pt) into a store for distill and run.
    No code in the files is executed: files that hold more than tensors are refused."""

    files: Annotated[tuple[Path, ...], Word(positional=True, metavar="PATH")] = ()
    """A folder of replay_buffer_*.pt, or the files in the order of their experts."""
    data: Annotated[DataConfig, Word(short="source")] = DATA
    """Data that the experts were trained on."""
    model: str = "convnet-d3"
    """Network of the experts."""
    method: Annotated[str, Word(names=methods)] = "mtt"
    """Method whose expert recipe is recorded; it changes nothing else."""
    store: Path = Path("experts")
    """Folder of the experts; each import has a sub-folder of its own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the stored parameters. bfloat16 takes half the disk space of float32."""


@command("import-buffers")
def import_buffers(options: ImportBuffers) -> None:
    """Import experts into a store, and print their accuracy on the data."""
    _check_data(options.data)
    files, model, method, store = options.files, options.model, options.method, options.store
    recipe = find_method(method).recipe
    if not files:
        raise InputError(
            "No buffer was named; name a folder of replay_buffer_*.pt: astdistill import-buffers FOLDER --data cifar100"
        )
    missing = next((file for file in buffers.buffer_files(files) if not file.exists()), None)
    if missing is not None:  # before the data are read, which may take minutes
        raise InputError(
            f"There is no file or folder {missing}; name a folder of replay_buffer_*.pt, or its files: "
            f"astdistill import-buffers FOLDER --data {options.data.source}"
        )
    dataset = load_dataset(options.data)
    print_data_briefly(Description.of(dataset))
    experts = buffers.import_buffers(files, dataset, model=model, recipe=recipe, store=store, dtype=options.dtype)
    save_quality({method: experts.curves()}, experts.folder / "quality.png")
    accuracy, chance = buffers.last_accuracy(experts, dataset), 100 / len(dataset.classes)
    console = Terminal()
    console.print(f"Experts: {experts.folder} ({len(experts)} of {many(experts.epochs, 'epoch')})", highlight=False)
    console.print(
        f"Check:   the first expert ends with a test accuracy of {accuracy:.1f} %; chance is {chance:.1f} %.",
        highlight=False,
    )
    if accuracy < 2 * chance:
        console.print(
            "That is hardly better than chance: were they trained on other data, in another order of the "
            "classes, or otherwise whitened (--data.whiten zca, or standard)?",
            style="yellow",
        )
    store_flag = ""
    if store != Path("experts"):
        store_flag = f" --experts.store {store}"
    console.print(
        f"Next:    astdistill distill PRESET{store_flag} --experts.imported {experts.folder.name}", highlight=False
    )


class ImportSet(Record):
    """Import a distilled set of the code of MTT or a successor (images_best.pt, labels_best.pt, lr.pt) into a run
    folder. No code in the files is executed: files that hold more than tensors are refused."""

    folder: Annotated[Path, Word(positional=True)]
    """Folder of the three files; those of labels and learning rate may be missing."""
    data: Annotated[DataConfig, Word(short="source")] = DATA
    """Data that were distilled."""
    out: Path
    """New run folder."""
    lr: float | None = None
    """Learning rate η, if there is no lr.pt, or to replace it."""
    model: str = "convnet-d3"
    """Network that the set was distilled with."""
    augmentation: str = STRATEGY
    """Augmentations of the student, joined by underscores; an empty text means none."""
    momentum: float = 0.0
    """Momentum of the student."""
    method: Annotated[str, Word(names=methods)] = "mtt"
    """Method that made the set."""
    canvas: int = 1
    """Size of a texture as a multiple of the image size (--canvas_size of MTT); 1 for ordinary images."""
    canvas_samples: int = 1
    """Random crops of each texture per training step (--canvas_samples of MTT)."""


@command("import-set")
def import_set(options: ImportSet) -> None:
    """Import a distilled set into a run folder."""
    _check_data(options.data)
    sets.check_set_folder(options.folder)  # before the data are read, which may take minutes
    settings = options.model_dump(exclude={"folder", "data"})
    dataset = load_dataset(options.data)
    print_data_briefly(Description.of(dataset))
    sets.import_set(options.folder, dataset, **settings)
    out, run = options.out, RunDir(options.out)
    preview = next(path for path in (run.page, run.images) if path.exists())
    Terminal().print(f"Look at:  {preview}\nNext:     astdistill evaluate {out}", highlight=False)


class Export(Record):
    """Export a distilled set for other programs."""

    path: Annotated[Path, Word(positional=True)]
    """A run folder, or a synthetic.safetensors file."""
    format: Annotated[str, Word(names=lambda: catalogue.FORMATS)] = Field(
        description=f"Format: {', '.join(catalogue.FORMATS)}. "
        + " ".join(f"{each.name}: {each.text}." for each in catalogue.FORMATS.values())
    )
    out: Path | None = None
    """New folder for the files (default: exports/FORMAT beside the set)."""
    data: str | None = None
    """Data that the set was made from: a name, folder or file. Needed only for sets that are stored without their ZCA
    matrix, such as those of astdistill get."""
    push: str | None = None
    """Upload to the Hugging Face hub as the data set of this name (with --format huggingface)."""
    private: bool = False
    """Make that data set private if it is created."""


@command("export")
def export(options: Export) -> None:
    """Write a distilled set in another format."""
    path, format, push, private = options.path, options.format, options.push, options.private
    check_single(path, "export")
    synthetic, run = load(path), RunDir.around(path)
    if push is not None:
        if format != huggingface.HUGGINGFACE.name:
            raise InputError(
                f"The hub does not show '{format}'; type: astdistill export {path} --format huggingface --push {push}"
            )
        huggingface.check_push(push)
    elif private:
        raise InputError(
            "--private was given without --push; "
            f"type: astdistill export {path} --format huggingface --push NAME --private"
        )
    if options.data is not None:
        dataset = load_dataset(synthetic.data.replace(source=options.data))
        synthetic = synthetic.completed(dataset.preprocessing)
    folder = options.out or run.exports / format
    try:
        catalogue.export(synthetic, format, folder, scores=_scores(path, run))
    except IncompleteError as error:
        raise _without_matrix(options, synthetic.data.source) from error
    console = Terminal()
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files[:SHOWN]:
        console.print(f"{file}", highlight=False)
    if len(files) > SHOWN:
        console.print(f"… and {len(files) - SHOWN:,} more in {folder}", highlight=False)
    data_text = f"{synthetic.data.source}, whiten {synthetic.data.whiten}"
    console.print(f"{catalogue.FORMATS[format].text}. The set was made on {data_text}.", highlight=False)
    if push is not None:
        console.print(f"Uploaded: {huggingface.push(folder, push, private)}", highlight=False)


def _without_matrix(options: Export, source: str) -> InputError:
    """The error for a set without its ZCA matrix, with the command that names its data."""
    command = ["astdistill", "export", str(options.path), "--format", options.format, "--data", source]
    if options.out is not None:
        command += ["--out", str(options.out)]
    return InputError(
        f"{options.path} was stored without its ZCA matrix; name the data that it was made from: {shlex.join(command)}"
    )


def _scores(path: Path, run: RunDir) -> Scores | None:
    """The scores of the set in the run's folder or in one of its evaluation folders, which belong to the run's result
    and to no other file there. Scores of an earlier set are left out with a warning."""
    if path not in (run.folder, run.synthetic):
        return None
    if (evaluation := current_evaluation(run)) is not None:
        return Scores.read(evaluation.scores)
    if not run.scores.is_file():
        return None
    evaluate_command = shlex.join(["astdistill", "evaluate", str(run.folder)])
    warn(f"{outdated_message(run.folder, evaluate_command)}, and export to a new --out; this export has no scores.")
    return None


class Get(Record):
    """List the distilled sets that come with the package, or copy one, or a set on the Hugging Face hub, into a run
    folder, with its card: its figures, and the command that measures them again."""

    name: Annotated[str, Word(positional=True, names=lambda: published.zoo())] = ""
    """Name of the set; hf:OWNER/REPO for one on the hub, hf:OWNER/REPO@REVISION for a certain version of it. Without a
    name, the sets are listed."""
    out: Path | None = None
    """New folder (default: runs/NAME)."""
    zoo: Path | None = None
    """Another folder of sets: NAME.safetensors, NAME.scores.json and NAME.png."""


@command("get")
def get(options: Get) -> None:
    """List the published sets, or copy one."""
    console = Terminal()
    if not options.name:
        if options.out is not None:
            raise InputError(f"--out {options.out} was given, but no set; name one of those that astdistill get lists.")
        console.print(terminal(published.listing(published.zoo(options.zoo))))
        return
    published_set = published.find(options.name, options.zoo)
    folder = options.out or Path("runs") / options.name.removeprefix(published.HUB).partition("@")[0].rpartition("/")[2]
    published_set.copy(folder)
    synthetic, scores = published_set.load(), published_set.scores()
    accuracy, protocol = published.expected(scores)
    console.print(f"{synthetic!r}", highlight=False)
    console.print(f"Accuracy: {accuracy} ({protocol})", highlight=False)
    console.print(f"Card:     {folder / 'README.md'}", highlight=False)
    measure_command = ""
    if scores is not None:
        measure_command = command_again(synthetic, scores, folder)
    console.print(f"Next:     {measure_command or f'astdistill evaluate {folder}'}", highlight=False)


def _check_data(data: DataConfig) -> None:
    """Raise InputError if no data are named."""
    if not data.source:
        raise InputError(
            "Say which data these files were made from, whitened as they were: --data cifar100 --data.whiten zca"
        )
