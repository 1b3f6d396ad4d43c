"""The command line.

What a command was asked for goes to stdout, in words or as ``--json``, so that it can be searched and paged. What is
said on the way goes to stderr: progress, questions, warnings, what a server says of itself.
"""

import logging
from collections.abc import Callable
from typing import Any

import click

from labeling_ground import __version__
from labeling_ground.cli.annotate import annotate
from labeling_ground.cli.browser import browser_decoder
from labeling_ground.cli.cache import cache
from labeling_ground.cli.capacity import capacity
from labeling_ground.cli.doctor import doctor
from labeling_ground.cli.engine import engine
from labeling_ground.cli.models import models
from labeling_ground.cli.serve import serve
from labeling_ground.cli.warm import warm
from labeling_ground.errors import LabelingGroundError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="labeling-ground")
def cli() -> None:
    """Serve masks for clicks and boxes from one cache: what anybody still uses is not computed twice.

    Every setting is an environment variable too: LABELING_GROUND_PORT=9000 is --port 9000. docs/settings.md lists them.
    """


for _command in (serve, engine, warm, annotate, cache, capacity, models, browser_decoder, doctor):
    cli.add_command(_command)


def main(run: Callable[..., Any] = cli) -> None:
    """Run a command. An error of ours is a sentence and exit code 1, not a traceback."""
    logging.captureWarnings(capture=True)
    try:
        run()
    except LabelingGroundError as error:
        click.echo(f"labeling-ground: {error}", err=True)
        raise SystemExit(1) from None
