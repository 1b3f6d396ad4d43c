"""The command ``labeling-ground``."""

import os


def main() -> None:
    """Run the command line."""
    # One thread a library call, unless the operator said otherwise: the lanes use all cores already, and threads within
    # threads cost tens of milliseconds a click. The libraries read this when they are imported, so that comes after.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from labeling_ground.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
