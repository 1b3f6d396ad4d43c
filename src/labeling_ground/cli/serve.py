"""``labeling-ground serve``."""

import ipaddress
import logging
import socket
from typing import Any

import click

from labeling_ground.adapters.choose import choose_adapters
from labeling_ground.api.app import create_app
from labeling_ground.api.state import AppState
from labeling_ground.cache.disk.folder import obstacle
from labeling_ground.cli.common import cache_dir_option, log_format_option, megabytes, say, settings_with
from labeling_ground.cli.running import listen, run
from labeling_ground.cli.workers import check_shared, serve_with_workers
from labeling_ground.observe import logs_text, set_up_logging
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_parts, connect_redis

log = logging.getLogger(__name__)


@click.command()
@click.option("--host", help="Address to listen on (127.0.0.1: this machine only).")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.")
@click.option("--workers", type=int, help="Processes that answer, up to the number of cores; 1 by default.")
@click.option("--model", help="Model id.")
@cache_dir_option
@click.option("--memory-bytes", help="Budget of the memory tier, for instance 2GiB.")
@click.option("--disk-bytes", help="Budget of the disk tier; 0 switches it off.")
@log_format_option
def serve(**given: Any) -> None:
    """Start the server. Stop it with Ctrl-C: what is in flight is answered first."""
    settings = settings_with(**given)
    set_up_logging(settings.log_level, settings.log_format)
    hint = "Choose another with --port, or PORT=9000 make run."
    if settings.workers > 1:
        check_shared(settings)
        serve_with_workers(settings, listen(settings.host, settings.port, hint=hint), _greet)
        return
    app_state = build_parts(settings)
    listener = listen(settings.host, settings.port, hint=hint)
    _greet(settings, listener, app_state)
    run(create_app(app_state, choose_adapters(app_state)), settings, listener, drain=app_state.drain)


def _greet(settings: Settings, listener: socket.socket, app_state: AppState) -> None:
    backend = app_state.predictor.backend
    version, note, engine = str(backend.info.version), backend.info.note, app_state.models.default.engine
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    disk = _disk(settings)
    if (redis := connect_redis(settings)) is not None:
        disk += f", {redis.address}"
    memory = int(settings.memory_bytes) * settings.workers
    cache = f"memory {megabytes(memory)}, {disk}; unused for {settings.idle_s:g} s: deleted"
    is_here = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    where = "this machine" if is_here else "everyone who reaches this port"
    access = f"{len(settings.api_keys)} API keys" if settings.api_keys else f"open to {where}: no API keys are set"
    if not logs_text(settings.log_format):
        fields = {"url": url, "model": version, "engine": engine, "cache": cache, "access": access}
        log.info("listening", extra={"fields": {name: value for name, value in fields.items() if value}})
        return
    say(f"Labeling Ground on {url}")
    say(f"  pages   label at {url}{settings.root_path}/, watch the cache at /cache, try the API at /docs")
    say(f"  model   {version}")
    for line in (engine, note):
        if line:
            say(f"          {line}")
    say(f"  cache   {cache}")
    say(f"  access  {access}")
    if settings.workers > 1:
        say(f"  workers {settings.workers} processes")


def _disk(settings: Settings) -> str:
    """What there is of a disk tier; one that cannot be written is none, and the log says why."""
    if not settings.disk_bytes:
        return "no disk tier"
    folder = settings.folder("cache_dir")
    if why := obstacle(folder):
        return f"no disk tier ({why.rstrip('.')})"
    return f"disk {megabytes(settings.disk_bytes)} in {folder}"
