"""``labeling-ground engine``."""

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

import click

from labeling_ground.cli.common import log_format_option, models_dir_option, say, settings_with
from labeling_ground.cli.running import listen, run
from labeling_ground.draining import Drain
from labeling_ground.engine_server.app import ModelEndpoint, create_engine_app
from labeling_ground.inference.auto import Halves
from labeling_ground.observe import logs_text, set_up_logging
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_endpoints

log = logging.getLogger(__name__)

_HALVES = {"encoder": Halves(decoder=False), "decoder": Halves(encoder=False), "both": Halves()}
_PORTS = {"encoder": 8080, "decoder": 7080, "both": 8080}
"""Those of the compose file, where TorchServe's containers have the same."""


@click.command()
@click.option("--role", type=click.Choice(sorted(_HALVES)), default="both", show_default=True, help="What it serves.")
@click.option("--model", help="Model id.")
@click.option("--host", help="Address to listen on (127.0.0.1: this machine only).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port for asks: 8080, or 7080 of a decoder. 0: a free one.")
@click.option(
    "--management-port", type=click.IntRange(0, 65535), help="Port that tells workers and queue: one above the other."
)
@models_dir_option
@log_format_option
def engine(role: str, port: int | None, management_port: int | None, **given: Any) -> None:
    """Serve a model's encoder or decoder to other servers.

    Or both of them. They find it by LABELING_GROUND_ENCODER_URL and LABELING_GROUND_DECODER_URL. There are no keys:
    all who reach the ports may ask, so keep them on a network of your own.
    """
    settings = settings_with(**given)
    set_up_logging(settings.log_level, settings.log_format)
    asked = _PORTS[role] if port is None else port
    beside = (min(asked + 1, 65535) if asked else 0) if management_port is None else management_port
    endpoints, why = build_endpoints(settings, _HALVES[role])  # first: a client that can connect shall be answered
    hint = "Choose another with --port and --management-port."
    listeners = [listen(settings.host, number, hint=hint) for number in (asked, beside)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for endpoint in endpoints:
        description = endpoint.handler.description
        fields: dict[str, object] = {
            "half": description.role.value,
            "name": endpoint.name,
            "model": str(description.version),
            "engine": why,
        }
        fields |= {"port": ports[0], "management_port": ports[1], "workers": endpoint.queue.slots}
        if logs_text(settings.log_format):
            say(
                f"{description.role} of {description.version} on http://{settings.host}:{ports[0]}/predictions/"
                f"{endpoint.name}, {endpoint.queue.slots} at a time; workers and queue on port {ports[1]}"
            )
            say(f"  {why} {description.note}".rstrip())
        else:
            log.info("listening", extra={"fields": fields})
    _run(settings, endpoints, listeners)


def serve_both(
    settings: Settings, listeners: Sequence[socket.socket], ready: Callable[[], object], beat: Callable[[], None]
) -> None:
    """Serve both halves of a model, as a process of a server's own, until told to stop.

    Args:
        settings: which model, and limits.
        listeners: for asks, and for what is told of workers and queue.
        ready: called when the model is loaded.
        beat: called ten times a second while it is served.

    Raises:
        BadSettings, UnknownModel: it cannot be loaded.
    """
    endpoints, _ = build_endpoints(settings, Halves())
    ready()
    _run(settings, endpoints, listeners, beat)


def _run(
    settings: Settings,
    endpoints: Sequence[ModelEndpoint],
    listeners: Sequence[socket.socket],
    beat: Callable[[], None] | None = None,
) -> None:
    drain = Drain()
    app = create_engine_app(
        endpoints,
        management_port=listeners[1].getsockname()[1],
        most_bytes=int(settings.max_engine_bytes),
        most_held=int(settings.max_bytes_in_flight),
        silence_s=settings.receive_timeout_s,
        least_bytes_s=int(settings.min_bytes_per_s),
        drain=drain,
    )
    run(app, settings, *listeners, drain=drain, beat=beat)
