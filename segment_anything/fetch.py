"""``fetch.py MODEL WEIGHTS GIVEN STORE [MIRROR]``: the first step of Dockerfile-build, a checkpoint into a model store.

WEIGHTS is one of:

- ``official``: the authors' checkpoint of MODEL. A file in the folder GIVEN that is it, is taken; otherwise it is
  downloaded. Both are verified by their SHA-256.
- ``custom``: weights of your own, in the layout of MODEL: the one file in GIVEN. The model is then called custom-MODEL.
- ``random``: nothing is fetched; a later step makes random numbers, for trials. The model is then called random-MODEL.

It and the part of our package that it uses need the standard library and filelock only: it runs before anything large
is installed, so that a wish that cannot be met is said within seconds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from labeling_ground.errors import LabelingGroundError
from labeling_ground.models.catalogue import Artifact, CatalogueModel, Format, Role
from labeling_ground.models.download import PullState, PullStep, RetryPolicy
from labeling_ground.models.pull import mirror_address, pull
from labeling_ground.models.store import ModelStore

FORMATS = (".pth", ".pt", ".bin", ".ckpt")
REMEDY = (
    "Put the file {file} into segment_anything/weights/ and build again; or take another model (--build-arg "
    "MODEL=mobile-sam, 40 MB); or, for a trial without any real masks, --build-arg WEIGHTS=random."
)


def fetch(name: str, weights: str, given: Path, store: ModelStore, mirror: str | None = None) -> str:
    """Get the checkpoint. Returns the name under which the model is known from here on.

    Raises:
        LabelingGroundError: it cannot be had; the sentence says what to do.
        SystemExit: the arguments make no sense.
    """
    model = store.known.model(name)
    (checkpoint,) = model.files(Format.PYTORCH)
    files = sorted(path for path in given.iterdir() if path.suffix in FORMATS)
    if weights == "random":
        return f"random-{name}"
    if weights == "custom":
        if len(files) != 1:
            sys.exit(f"WEIGHTS=custom takes the one checkpoint in segment_anything/weights/; there are {len(files)}.")
        say(f"{files[0].name} is taken as it is: nobody verifies weights of your own.")
        return store.add(files[0], name=f"custom-{name}", role=Role.CHECKPOINT, family=model.family)
    if weights != "official":
        sys.exit(f"WEIGHTS is official, custom or random, not {weights!r}.")
    if not taken(model, checkpoint, files, store):
        download(model, checkpoint, store, mirror)
    return name


def taken(model: CatalogueModel, checkpoint: Artifact, files: Sequence[Path], store: ModelStore) -> bool:
    """Take the file that lies there, if it is the right one. One of the right name must be the right one."""
    named = [path for path in files if path.name == checkpoint.file]
    for path in named or files:
        try:
            found = store.add(path)
        except LabelingGroundError as error:
            if named:
                sys.exit(f"segment_anything/weights/{path.name} is not what its name says. {error}")
            say(f"segment_anything/weights/{path.name} is not used: {error}")
            continue
        if found == model.name:
            say(f"{path.name} is the checkpoint of {model.name}, verified.")
            return True
        say(f"segment_anything/weights/{path.name} is not used: it belongs to {found}.")
    return False


def download(model: CatalogueModel, checkpoint: Artifact, store: ModelStore, mirror: str | None) -> None:
    """Download the checkpoint from its authors, or from a mirror, which need not be trusted."""
    host = urlsplit(mirror_address(mirror, checkpoint)).netloc
    say(f"Downloading {checkpoint.file} ({checkpoint.about_bytes / 1e6:.0f} MB) from {host}.")
    last = 0

    def progress(step: PullStep) -> None:
        nonlocal last
        if step.state is PullState.RETRYING:
            say(f"  {step.note}")
        elif step.total and step.done * 10 // step.total > last:
            last = step.done * 10 // step.total
            say(f"  {last * 10} %")

    pull(model, store, as_format=Format.PYTORCH, mirror=mirror, progress=progress, retries=RetryPolicy(20, 3))
    say(f"{checkpoint.file} is here, verified.")


def say(words: str) -> None:
    """To the log of the build."""
    print(words, file=sys.stderr, flush=True)  # noqa: T201 -- a script's words


def main(name: str, weights: str, given: str, folder: str, mirror: str = "") -> None:
    """See above. The model's name goes to stdout."""
    store = ModelStore(Path(folder))
    try:
        print(fetch(name, weights, Path(given), store, mirror or None))  # noqa: T201
    except LabelingGroundError as error:
        file = store.known.model(name).files(Format.PYTORCH)[0].file if name in store.known else ""
        sys.exit(f"{error}\n{REMEDY.format(file=file)}" if file else str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
