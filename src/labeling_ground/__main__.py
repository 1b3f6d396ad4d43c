"""The command ``labeling-ground``."""

from labeling_ground.cli import main

if __name__ == "__main__":
    main()
