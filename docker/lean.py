"""``lean.py NAME…``: make the environment that runs this small, and without the packages named.

What goes: what builds and installs; what compilers and test runners read; symbols of libraries that
nothing loads; and bytecode, of which ``prove.py`` makes again what is used. Needs ``strip``.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

TOOLS = ("hatchling", "editables", "pathspec", "pluggy", "tomlkit", "trove-classifiers", "setuptools", "pip")
UNREAD = frozenset({".a", ".c", ".cpp", ".h", ".hpp", ".pxd", ".pyx"})
FOLDERS = ("tests", "__pycache__")
EXAMPLES = ("*.gif", "*.jpg", "*.np[yz]", "*.png", "*.tif")
"""The example pictures in ``skimage/data``."""


def strip(library: Path) -> None:
    """Take symbols out of a library, if it can be loaded afterwards: of some wheels it cannot."""
    stripped = library.with_suffix(".stripped")
    done = subprocess.run(["strip", "--strip-unneeded", "-o", stripped, library], capture_output=True, check=False)
    load = [sys.executable, "-c", "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_LAZY)", str(stripped)]
    if done.returncode == 0 and subprocess.run(load, capture_output=True, check=False).returncode == 0:
        stripped.chmod(library.stat().st_mode)
        stripped.replace(library)
    stripped.unlink(missing_ok=True)


def make_lean(site: Path) -> None:
    """Delete and strip below ``site``, where the packages are."""
    for library in site.rglob("*.so*"):
        if not library.parent.name.endswith(".libs"):  # these were moved about in, and break when they are stripped
            strip(library)
    for example in [file for pattern in EXAMPLES for file in (site / "skimage" / "data").glob(pattern)]:
        example.unlink()
    for file in [file for file in site.rglob("*") if file.suffix in UNREAD and file.is_file()]:
        file.unlink()
    for folder in [folder for name in FOLDERS for folder in site.rglob(name)]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", *sys.argv[1:], *TOOLS], check=True)
    make_lean(Path(sysconfig.get_path("purelib")))
