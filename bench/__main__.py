"""``python -m bench``: everything, one after the other, into ``bench/results``."""

import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run each benchmark as a process of its own, so that none inherits another's threads or memory."""
    for module, arguments in (
        ("bench.serving", ["--out", str(RESULTS.relative_to(Path.cwd()) / "serving.md")]),
        ("bench.segmentation", []),
        ("bench.policies", ["--out", str(RESULTS.relative_to(Path.cwd()) / "policies.md")]),
    ):
        print(f"\n# {module}\n", flush=True)
        code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
