"""From a name to verified files in the model store."""

import re
from collections.abc import Callable, Sequence
from urllib.parse import quote, urlsplit

from labeling_ground.errors import BadSettings, shown_url
from labeling_ground.models.catalogue import Artifact, CatalogueModel, Format
from labeling_ground.models.disk import check_room, digest_of, disk_trouble
from labeling_ground.models.download import PullState, PullStep, RetryPolicy, download
from labeling_ground.models.manifests import InstalledModel
from labeling_ground.models.store import ModelStore, is_here, stored_from


def pull(
    model: CatalogueModel,
    store: ModelStore,
    *,
    as_format: Format | None = None,
    mirror: str | None = None,
    progress: Callable[[PullStep], None] | None = None,
    retries: RetryPolicy | None = None,
) -> InstalledModel:
    """Download what is missing of a model, and note it as installed when all of it is here and verified.

    Who pulls a model that another process pulls waits, and then finds it done. After an interruption or a failure,
    pulling again goes on where it stopped.

    Args:
        model: what.
        store: where to.
        as_format: which files; ready-made ONNX where there is one, if nobody says.
        mirror: where to download from in place of the addresses in the catalogue; see ``mirror_address``.
        progress: told every step. An exception from it ends the pull, which can be resumed.
        retries: how often, and how patiently; by default as ``RetryPolicy`` says.

    Raises:
        UnknownModel: the model is not there in that format.
        BadSettings: the mirror is no address.
        PullFailed: it could not be had; the sentence says why and what to do.
    """
    tell = progress or (lambda _: None)
    wanted = model.files(as_format)
    addresses = {artifact.sha256: mirror_address(mirror, artifact) for artifact in wanted}
    with store.pulling(model.name, waiting=lambda: tell(PullStep(PullState.WAITING))):
        here = store.get(model.name)
        if here is None or not is_here(here, model, as_format):
            missing = [artifact for artifact in wanted if not _is_stored(store, artifact)]
            _check_room(store, missing)
            for artifact in missing:
                download(
                    artifact, addresses[artifact.sha256], store.part(artifact.sha256), retries or RetryPolicy(), tell
                )
            here = _install(store, model, wanted, addresses)
        tell(PullStep(PullState.DONE))
        return here


def mirror_address(mirror: str | None, artifact: Artifact) -> str:
    """Where to ask for a file.

    A mirror is the address of a folder that holds the files under the names that they have at their hosts: any web
    server over a folder of downloads is one. One that is arranged otherwise has ``{file}`` or ``{sha256}`` in its
    address, where the name or the digest goes.

    Raises:
        BadSettings: that is no http or https address, or has other braces in it.
    """
    if not mirror:
        return artifact.url
    unknown = set(re.findall(r"{[^}]*}", mirror)) - {"{file}", "{sha256}"}
    if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc or unknown:
        raise BadSettings(
            f"{shown_url(mirror)} cannot be a mirror: it must be an http or https address, with {{file}} or {{sha256}} "
            "in it where files are not simply found under their names."
        )
    if "{" not in mirror:
        return f"{mirror.rstrip('/')}/{quote(artifact.file)}"
    return mirror.replace("{file}", quote(artifact.file)).replace("{sha256}", artifact.sha256)


def _install(
    store: ModelStore, model: CatalogueModel, wanted: Sequence[Artifact], addresses: dict[str, str]
) -> InstalledModel:
    files = []
    for artifact in wanted:
        part, blob = store.part(artifact.sha256), store.blob(artifact.sha256)
        try:
            size = (part if part.exists() else blob).stat().st_size
        except OSError as error:
            raise disk_trouble(store.folder, error) from None
        files.append((stored_from(artifact, size, addresses[artifact.sha256]), part))
    here = store.install(model.name, files, family=model.family, own=False)
    for artifact in wanted:
        store.part(artifact.sha256).with_suffix(".json").unlink(missing_ok=True)
    return here


def _is_stored(store: ModelStore, artifact: Artifact) -> bool:
    """Whether the file is in the store although the model's manifest does not say so: then its content is read."""
    blob = store.blob(artifact.sha256)
    try:
        return blob.is_file() and digest_of(blob) == artifact.sha256
    except OSError:
        return False


def _check_room(store: ModelStore, missing: Sequence[Artifact]) -> None:
    needed = 0
    for artifact in missing:
        part = store.part(artifact.sha256)
        needed += max(0, artifact.about_bytes - (part.stat().st_size if part.exists() else 0))
    check_room(store.folder, needed)
