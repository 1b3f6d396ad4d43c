"""``labeling-ground models``: list, pull, export, check, archive, add, remove, path."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from labeling_ground.cli.check import check
from labeling_ground.cli.common import data, json_option, megabytes, models_dir_option, say, settings_with, show
from labeling_ground.inference.agreement import this_machine
from labeling_ground.inference.graphs import version_of
from labeling_ground.models import triton
from labeling_ground.models.archive import SERVING, check_archiver, check_target, version_files
from labeling_ground.models.archive import archive as write_archive
from labeling_ground.models.catalogue import CatalogueModel, Format, Role, catalogue
from labeling_ground.models.disk import digest_of
from labeling_ground.models.download import PullState, PullStep
from labeling_ground.models.export.run import check_installed
from labeling_ground.models.export.run import export as export_checkpoint
from labeling_ground.models.manifests import InstalledModel, StoredFile
from labeling_ground.models.pull import pull as pull_model
from labeling_ground.models.store import ModelStore, add_folder, is_here
from labeling_ground.sam.family import Family

_PRECISIONS = ("fp16", "fp32")


def _store(models_dir: Path | None) -> ModelStore:
    return ModelStore(settings_with(models_dir=models_dir).folder("models_dir"), catalogue())


@click.group()
def models() -> None:
    """List models, and get, add or remove their weights."""


models.add_command(check)


@models.command(name="list")
@models_dir_option
@json_option
def list_models(models_dir: Path | None, as_json: bool) -> None:
    """Which models there are, and which are here.

    With what they weigh, and what one image costs in the cache.
    """
    store = _store(models_dir)
    here = store.installed()
    known = store.known.models
    own = [model for model in here.values() if model.own]
    if as_json:
        data([_as_data(model, here.get(model.name)) for model in known] + [_own_as_data(model) for model in own])
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("name", "family", "licence"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ONNX\nMB", "authors'\nMB", "MiB/image\nfp16/fp32", "images/GiB\nfp16/fp32"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("here")
    for model in known:
        costs = [model.embedding_bytes(precision) for precision in _PRECISIONS]
        table.add_row(
            model.name,
            model.family,
            model.licence,
            _download(model, Format.ONNX),
            _download(model, Format.PYTORCH),
            " / ".join(f"{cost / (1 << 20):g}" for cost in costs),
            " / ".join(str((1 << 30) // cost) for cost in costs),
            _here(model, here.get(model.name)),
        )
    for yours in own:
        table.add_row(
            yours.name,
            yours.family or "?",
            "your own",
            "",
            "",
            "",
            "",
            ", ".join([*sorted(yours.files), *_checked(yours)]),
        )
    # A narrow window breaks the lines itself; columns cut short would say nothing.
    Console(width=max(Console().width, 100)).print(table)
    show()
    show("ONNX is ready to serve; int8 means weights rounded to 8 bits by the file's maker. ~ is an estimate.")
    show("MiB an image is what its embedding takes in the cache.")
    for model in known:
        if model.bring:
            show(f"{model.name}: {model.bring} See {model.source}.")
    show(f"The weights are in {store.folder}.")


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--format",
    "as_format",
    type=click.Choice([Format.ONNX.value, Format.PYTORCH.value]),
    help="onnx (ready to serve; the default) or pytorch (the authors' checkpoint: for torch, or to export).",
)
@click.option(
    "--mirror",
    help="Download from here instead: the address of a folder with the files, or one with {file} or {sha256} in it.",
)
@models_dir_option
def pull(names: tuple[str, ...], as_format: str | None, mirror: str | None, models_dir: Path | None) -> None:
    """Download models and verify every bit.

    Interrupt it with Ctrl-C and start it again: it goes on where it stopped.
    """
    store = _store(models_dir)
    mirror = settings_with(models_mirror=mirror).models_mirror
    chosen = Format(as_format) if as_format else None
    wanted = [store.known.model(name) for name in dict.fromkeys(names)]
    for model in wanted:
        model.files(chosen)  # a wrong wish is said before anything is downloaded
    try:
        for model in wanted:
            with _Bars(model.name) as report:
                found = pull_model(model, store, as_format=chosen, mirror=mirror, progress=report)
            files = [found.files[artifact.role] for artifact in model.files(chosen)]
            size = megabytes(sum(file.bytes for file in files))
            say(f"{model.name} is here: {', '.join(file.role for file in files)}, {size}, verified.")
    except KeyboardInterrupt:
        say("Interrupted. What came is kept: run the same command again to go on.")
        raise SystemExit(130) from None


@models.command()
@click.argument("name")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The official checkpoint, if it was not pulled or added.",
)
@models_dir_option
def export(name: str, checkpoint: Path | None, models_dir: Path | None) -> None:
    """Turn an official checkpoint into ONNX files.

    These are for fast engines, and are verified against torch. Needs the extra 'export' (torch and others): see
    docs/models.md. Some minutes for the large models.
    """
    store = _store(models_dir)
    check_installed()
    source = checkpoint or store.path_of(name, Role.CHECKPOINT)
    store.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.folder) as folder:
        report = export_checkpoint(source, Path(folder), model=name, progress=say)
        made = {
            Role.ENCODER: report.encoder.path,
            Role.DECODER: report.decoder.path,
            Role.FAST_DECODER: report.fast_decoder.path,
        }
        if report.encoder.data is not None:
            made[Role.ENCODER_DATA] = report.encoder.data
        files = [
            (StoredFile(role, digest_of(path), path.stat().st_size, path.name, "exported"), path)
            for role, path in made.items()
        ]
        store.install(name, files, family=report.family, own=name not in store.known)
    say(
        f"{name} is exported in {report.seconds:.0f} s; its files differ from torch by {report.max_abs_error:.1e} at "
        f"most. Serve it: labeling-ground serve --model {name}"
    )


@models.command()
@click.argument("name")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the archives.")
@click.option(
    "--for",
    "server",
    type=click.Choice(["torchserve", "triton"]),
    default="torchserve",
    show_default=True,
    help="What is to serve it: TorchServe (.mar files), or Triton and what reads its model repositories.",
)
@click.option("--encode-name", default="sam_vit_h_encode", show_default=True, help="What the encoder is called there.")
@click.option("--decode-name", default="sam_vit_h_decode", show_default=True, help="What the decoder is called there.")
@click.option("--batch", type=click.IntRange(1, 64), help="TorchServe: asks handed over at once.  [default: 1]")
@click.option(
    "--batch-delay-ms",
    type=click.IntRange(0, 10_000),
    help="TorchServe: how long a batch may take to fill.  [default: 1]",
)
@models_dir_option
def archive(
    name: str,
    out: Path,
    server: str,
    encode_name: str,
    decode_name: str,
    batch: int | None,
    batch_delay_ms: int | None,
    models_dir: Path | None,
) -> None:
    """Make what TorchServe or Triton serve of a model.

    One archive of its encoder, one of its decoder. TorchServe must have labeling-ground installed beside it: see
    segment_anything/README.md. Triton needs nothing of ours: see docs/open-inference-protocol.md.
    """
    store = _store(models_dir)
    if encode_name == decode_name:
        raise click.UsageError("--encode-name and --decode-name must differ")
    names = {Role.ENCODER: encode_name, Role.DECODER: decode_name}
    batches = {key: value for key, value in (("batch", batch), ("batch_delay_ms", batch_delay_ms)) if value is not None}
    if server == "triton":
        if batches:
            raise click.UsageError("--batch and --batch-delay-ms are for TorchServe")
        version = version_of(name, version_files(store, name), "fp32")
        for half, called in names.items():
            made = triton.archive(store, name, half, version, out / called)
            say(f"{made} is the {half} of {version}: {version.model}@{version.digest}.")
        return
    targets = {half: out / f"{called}.mar" for half, called in names.items()}
    for target in targets.values():
        check_target(target)
    check_archiver()
    version = version_of(name, version_files(store, name), "fp32")
    for half, target in targets.items():
        made = write_archive(store, name, half, version, target, serving=replace(SERVING[half], **batches))
        say(f"{made} is the {half} of {version}, {megabytes(made.stat().st_size)}.")


@models.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--as", "name", help="It is a model of your own, under this name.")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="What it is, for a model of your own.")
@click.option(
    "--family", type=click.Choice([family.value for family in Family]), help="Its kind, for a model of your own."
)
@models_dir_option
def add(file: Path, name: str | None, role: str | None, family: str | None, models_dir: Path | None) -> None:
    """Take in a FILE that you brought. Its digest says which model it belongs to.

    A model of your own is in no catalogue, so you say what it is: --as my-sam --role encoder. SAM 3 is a folder with
    the files that its authors give you: --as sam3.
    """
    if name is None and (role or family):
        raise click.UsageError("--role and --family are for a model of your own: name it with --as")
    store = _store(models_dir)
    if file.is_dir():
        if name is None:
            raise click.UsageError("a folder is one model: name it with --as")
        if name in store.known:
            model = store.known.model(name)
            say(f"The weights of {name} stand under the {model.licence}: {model.source}")
        add_folder(store, file, name=name, family=family)
        say(f"{name} is here. Serve it: labeling-ground serve --model {name}")
        return
    belongs_to = store.add(file, name=name, role=Role(role) if role else None, family=family)
    found = store.get(belongs_to)
    say(f"{file.name} belongs to {belongs_to}. Here of it now: {', '.join(sorted(found.files) if found else ())}.")


@models.command()
@click.argument("name")
@models_dir_option
def remove(name: str, models_dir: Path | None) -> None:
    """Remove a model's files. A running server keeps what it has loaded."""
    freed = _store(models_dir).remove(name)
    say(f"{name} is gone; {megabytes(freed)} are free again.")


@models.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="Only this file.")
@models_dir_option
def path(name: str, role: str | None, models_dir: Path | None) -> None:
    """Where a model's files are.

    Role and path on each line, or the path alone with --role.
    """
    store = _store(models_dir)
    if role is not None:
        click.echo(store.path_of(name, Role(role)))
        return
    found = store.get(name)
    if found is None or not found.files:
        store.path_of(name, Role.ENCODER)  # which says how to get it
        return
    for each in sorted(found.files):
        click.echo(f"{each}\t{store.path_of(name, each)}")


class _Bars:
    """Progress bars on stderr, one a file, fed with the steps of one pull."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Callable[[PullStep], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, step: PullStep) -> None:
        if step.state is PullState.WAITING:
            say(f"Another process pulls {self._name}; waiting for it.")
        if step.artifact is None:
            return
        if step.artifact.sha256 not in self._tasks:
            label = f"{self._name} {step.artifact.role}"
            self._tasks[step.artifact.sha256] = self._progress.add_task(label, total=step.total)
        self._progress.update(self._tasks[step.artifact.sha256], completed=step.done, total=step.total)
        if step.state is PullState.RETRYING:
            self._progress.console.print(f"{step.artifact.file}: {step.note}", markup=False, highlight=False)


def _size(model: CatalogueModel, wanted: Format) -> tuple[int, bool]:
    """Bytes to download, and whether all the sizes are known exactly."""
    files = model.files(wanted)
    return sum(artifact.about_bytes for artifact in files), all(artifact.bytes for artifact in files)


def _download(model: CatalogueModel, wanted: Format) -> str:
    if wanted not in model.formats:
        return "–"
    size, known = _size(model, wanted)
    precisions = {artifact.precision for artifact in model.files(wanted)} - {"fp32"}
    return " ".join([f"{'' if known else '~'}{size / 1e6:.0f}", *sorted(precisions)])


def _here(model: CatalogueModel, found: InstalledModel | None) -> str:
    if found is None:
        return "–"
    if model.bring and found.formats:
        return "yes"
    words = []
    for wanted in found.formats:
        same = wanted in model.formats and is_here(found, model, wanted)
        words.append(wanted.value if same else f"{wanted.value} (not the catalogue's)")
    partly = [] if words else [f"{role} only" for role in sorted(found.files)]
    return ", ".join(words + partly + _checked(found))


def _checked(found: InstalledModel) -> list[str]:
    """What ``models check`` has found on this machine of precisions other than fp32, and of embeddings in int8."""
    return [
        f"{each.embedding or each.precision} IoU ≥ {each.least_iou:.3f}"
        for each in found.verdicts.get(this_machine(), ())
        if each.source == "check" and (each.embedding or each.precision != "fp32") and not each.failed
    ]


def _as_data(model: CatalogueModel, found: InstalledModel | None) -> dict[str, Any]:
    costs = {precision: model.embedding_bytes(precision) for precision in _PRECISIONS}
    return {
        "name": model.name,
        "title": model.title,
        "own": False,
        "family": model.family,
        "licence": model.licence,
        "source": model.source,
        "input_size": model.input_size,
        "parameters": model.parameters,
        "downloads": {
            wanted.value: {
                "bytes": _size(model, wanted)[0],
                "estimated": not _size(model, wanted)[1],
                "files": [
                    {
                        "role": artifact.role,
                        "file": artifact.file,
                        "url": artifact.url,
                        "sha256": artifact.sha256,
                        "bytes": artifact.about_bytes,
                        "precision": artifact.precision,
                        "io": artifact.io,
                        "made_by": artifact.made_by,
                    }
                    for artifact in model.files(wanted)
                ],
            }
            for wanted in model.formats
        },
        "embedding": [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in model.embedding],
        "embedding_bytes": costs,
        "images_per_gib": {precision: (1 << 30) // cost for precision, cost in costs.items()},
        "installed": _files_as_data(found),
        "verdicts": _verdicts_as_data(found),
    }


def _own_as_data(model: InstalledModel) -> dict[str, Any]:
    about = {"name": model.name, "own": True, "family": model.family, "installed": _files_as_data(model)}
    return {**about, "verdicts": _verdicts_as_data(model)}


def _verdicts_as_data(found: InstalledModel | None) -> list[dict[str, Any]]:
    """Of this machine."""
    return [asdict(verdict) for verdict in found.verdicts.get(this_machine(), ())] if found else []


def _files_as_data(found: InstalledModel | None) -> dict[str, Any]:
    files = found.files.values() if found else ()
    return {file.role: {"file": file.file, "sha256": file.sha256, "bytes": file.bytes} for file in files}
