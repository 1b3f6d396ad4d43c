"""``labeling-ground browser-decoder``."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from labeling_ground.cli.common import say, settings_with
from labeling_ground.errors import PullFailed
from labeling_ground.web import browser_runtime
from labeling_ground.web.browser_runtime import PACKAGE, VERSION


@click.command("browser-decoder")
@click.argument("archive", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def browser_decoder(archive: Path | None) -> None:
    """Get what decodes in the browser: ONNX Runtime Web.

    The labeling page uses it. Its 14 MB come from the npm registry, by npm, are checked against the digest that is
    pinned here, and lie in LABELING_GROUND_BROWSER_RUNTIME_DIR then. Where there is no npm or no network, run `npm
    pack` elsewhere and name the ARCHIVE that it made. Restart a server that is running.
    """
    folder = settings_with().folder("browser_runtime_dir")
    if archive is None and browser_runtime.find(folder) is not None:
        say(f"{PACKAGE} {VERSION} is in {folder} already")
        return
    content = archive.read_bytes() if archive else _packed()
    home = browser_runtime.unpack(content, folder)
    say(f"{PACKAGE} {VERSION} is in {home}; servers serve it from their next start on")


def _packed() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise PullFailed(
            f"npm is not installed. Install it, or run 'npm pack {PACKAGE}@{VERSION}' on a machine that has it, and "
            "name the file that it makes to this command."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)  # noqa: S603
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(found) != 1:
            words = done.stderr.strip().splitlines() or ["it said nothing"]
            raise PullFailed(f"npm could not get {PACKAGE} {VERSION}: {words[-1]}")
        return found[0].read_bytes()
