"""Several processes that answer behind one port: the one that starts them, starts them anew, and ends them.

``docs/decisions/0033-several-processes.md`` says what they share and why.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from labeling_ground.adapters.choose import choose_adapters
from labeling_ground.api.app import create_app
from labeling_ground.api.state import AppState
from labeling_ground.cache.disk.folder import obstacle
from labeling_ground.cli.common import say
from labeling_ground.cli.engine import serve_both
from labeling_ground.cli.running import listen, run
from labeling_ground.errors import BadSettings, LabelingGroundError
from labeling_ground.observe import set_up_logging
from labeling_ground.peers import Peers
from labeling_ground.settings import Settings
from labeling_ground.trace.files import of_worker
from labeling_ground.wiring import build_parts, has_weights

log = logging.getLogger(__name__)

_spawn = multiprocessing.get_context("spawn")
_CANNOT_START = 78
"""Exit code of a process that has said why it cannot start (``EX_CONFIG``). Not uvicorn's 3: what failed while parts
were being opened may go better the next time."""
_LOOK_S = 0.2
"""Seconds between two looks whether this process was told to stop."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
"""Before a process that died is started anew: longer each time, until one has lived for the longest pause. No limit:
the others answer meanwhile."""
_MORE_S = 10.0
"""Beyond the settings that bound a worker's end. No limit of its own: one that needs longer is held up by something."""
_TOGETHER = ("memory_bytes", "answers_bytes", "max_bytes_in_flight", "max_pixels_at_once")
_THREADS = ("encode_workers", "decode_workers", "draw_workers", "value_workers", "grid_workers")

Greet = Callable[[Settings, socket.socket, AppState], None]


def serve_with_workers(settings: Settings, listener: socket.socket, greet: Greet) -> None:
    """Serve with as many processes as the settings say, until told to stop.

    Raises:
        SystemExit: one of them cannot start, and has said why.
    """
    with tempfile.TemporaryDirectory(prefix="labeling-ground-") as folder:
        _Processes(settings, listener, Path(folder), greet).run()


def check_shared(settings: Settings) -> None:
    """See that workers with these settings have a tier that all of them see.

    Raises:
        BadSettings: they have not, or this system has not what they take.
    """
    if sys.platform == "win32":
        raise BadSettings("Several workers take a system with Unix sockets. Set LABELING_GROUND_WORKERS=1.")
    if settings.redis_url is None:
        why = "" if settings.disk_bytes else "the disk tier is switched off."
        if why := why or obstacle(settings.folder("cache_dir")):
            raise BadSettings(
                "Several workers share a disk tier or a Redis, and there is neither (set disk_bytes and cache_dir, or "
                f"redis_url; or workers to 1): {why}"
            )


def share_of_worker(settings: Settings, number: int) -> Settings:
    """The settings of one of several workers: its part of the budgets of memory, and of the threads."""
    count = settings.workers
    parts: dict[str, Any] = {name: max(1, -(-getattr(settings, name) // count)) for name in _THREADS}
    for name in _TOGETHER:
        value = getattr(settings, name)
        parts[name] = type(value)(value // count)
    parts["max_bytes_in_flight"] = max(parts["max_bytes_in_flight"], 2 * settings.max_image_bytes)
    if settings.trace_file is not None:
        parts["trace_file"] = of_worker(settings.trace_file, number)
    return settings.model_copy(update=parts)


class _Beats:
    """Counts a process's signs of life, in memory that it shares with the one that watches it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = _spawn.RawValue("Q", 0)
        self._seen = 0
        self._silent_s = 0.0
        self._looked = 0.0

    def beat(self) -> None:
        """Called in the process, while its event loop runs."""
        self._count.value += 1

    def begin(self) -> None:
        """Called before a process is started: until its first beat it loads what it needs, and is not watched."""
        self._count.value = self._seen = 0

    def silent_s(self) -> float:
        """Called by who watches, over and over: seconds of watching without a beat.

        A time in which nobody watched counts for little: the machine, or all processes, may have stood still.
        """
        now = self._clock()
        if self._count.value != self._seen or not self._seen:
            self._seen, self._silent_s = self._count.value, 0.0
        else:
            self._silent_s += min(now - self._looked, 5 * _LOOK_S)
        self._looked = now
        return self._silent_s


@dataclass
class _Watched:
    """A process that is started anew whenever it dies, or hangs."""

    name: str
    start: Callable[[], SpawnProcess]
    beats: _Beats
    most_silent_s: float
    """0: one that hangs is left alone."""
    process: SpawnProcess | None = None
    began: float = 0.0
    due: float = 0.0
    pause_s: float = field(default=_PAUSE_S)
    has_started: bool = False
    """Whether it was ready once, so that with these settings it can be."""

    def restart_if_ended(self) -> None:
        """Start the process if it does not run and its pause is over; kill one that hangs.

        Raises:
            SystemExit: it cannot start, and never did.
        """
        now = time.monotonic()
        if self.process is not None and not self.process.is_alive():
            code = self.process.exitcode
            if code == _CANNOT_START and not self.has_started:
                raise SystemExit(1)
            if now - self.began > _LONGEST_PAUSE_S:
                self.pause_s = _PAUSE_S
            log.error("%s ended (exit code %s) and is started anew in %g s", self.name, code, self.pause_s)
            self.process, self.due = None, now + self.pause_s
            self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)
        elif self.process is not None and 0 < self.most_silent_s < self.beats.silent_s():
            log.error("%s has given no sign of life for %g s and is killed", self.name, self.most_silent_s)
            self.process.kill()
        if self.process is None and now >= self.due:
            self.beats.begin()
            self.process, self.began = self.start(), now


class _Processes:
    """The workers, and the engine's process where there is one."""

    def __init__(self, settings: Settings, listener: socket.socket, folder: Path, greet: Greet) -> None:
        self._settings = settings
        self._listener = listener
        self._folder = folder
        self._greet: Greet | None = greet
        self._is_told_to_stop = False
        self._watched: list[_Watched] = []

    def run(self) -> None:
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        try:
            with contextlib.suppress(_Stopped):
                if has_weights(self._settings):
                    self._start_engine()
                for number in range(self._settings.workers):
                    self._start_worker(number)
                while True:
                    self._look()
        finally:
            self._end()

    def _stop(self, *_: Any) -> None:
        self._is_told_to_stop = True

    def _look(self) -> None:
        """Wait a little, and keep everything running.

        Raises:
            _Stopped: this process was told to stop.
        """
        if self._is_told_to_stop:
            raise _Stopped
        wait([watched.process.sentinel for watched in self._watched if watched.process is not None], _LOOK_S)
        for watched in self._watched:
            watched.restart_if_ended()

    def _start_engine(self) -> None:
        hint = "It is a port for the engine, on this machine only."
        listeners = [listen("127.0.0.1", 0, hint=hint) for _ in range(2)]
        asks, management = ((f"http://127.0.0.1:{each.getsockname()[1]}",) for each in listeners)
        ready, beats = _spawn.Event(), _Beats()
        settings = self._settings

        def start() -> SpawnProcess:
            return _started(_run_engine, settings, listeners, ready, beats)

        self._watch("the engine", start, ready, beats)
        urls = {"encoder_url": asks, "decoder_url": asks}
        urls |= {"encoder_management_url": management, "decoder_management_url": management}
        self._settings = settings.model_copy(update=urls)

    def _start_worker(self, number: int) -> None:
        ready, beats = _spawn.Event(), _Beats()

        def start() -> SpawnProcess:
            greet, self._greet = self._greet, None
            share = share_of_worker(self._settings, number)
            return _started(_work, share, number, self._folder, self._listener, greet, ready, beats)

        self._watch(f"worker {number}", start, ready, beats)

    def _watch(self, name: str, start: Callable[[], SpawnProcess], ready: Any, beats: _Beats) -> None:
        watched = _Watched(name, start, beats, self._settings.worker_silence_s)
        self._watched.append(watched)
        while not ready.is_set():
            self._look()
        watched.has_started = True

    def _end(self) -> None:
        """Let the workers finish what they are at, and end the engine when nobody needs it any more."""
        self._listener.close()  # the workers have theirs: when they take no connections any more, there are none
        settings = self._settings
        given_s = settings.drain_delay_s + settings.shutdown_grace_s + 1.5 * settings.shutdown_write_s
        deadline = time.monotonic() + given_s + _MORE_S
        running = [watched.process for watched in self._watched if watched.process is not None]
        engine = [process for process in running if process.name == _run_engine.__name__]
        for processes in ([process for process in running if process not in engine], engine):
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()


class _Stopped(Exception):  # noqa: N818 -- no error
    """This process was told to stop."""


def _started(work: Callable[..., None], *arguments: Any) -> SpawnProcess:
    process = _spawn.Process(target=_guarded, args=(work, *arguments), name=work.__name__)
    process.start()
    return process


def _guarded(work: Callable[..., None], settings: Settings, *arguments: Any) -> None:
    """Do a process's work: it ends with its parent, and says in a sentence why it cannot start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    set_up_logging(settings.log_level, settings.log_format)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        work(settings, *arguments)
    except LabelingGroundError as error:
        say(str(error))
        sys.exit(_CANNOT_START)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _work(
    settings: Settings,
    number: int,
    folder: Path,
    listener: socket.socket,
    greet: Greet | None,
    ready: Any,
    beats: _Beats,
) -> None:
    app_state = build_parts(settings, peers=Peers(folder, number, settings.workers, settings.worker_answer_s))
    if greet is not None:
        greet(settings, listener, app_state)
    ready.set()
    run(create_app(app_state, choose_adapters(app_state)), settings, listener, drain=app_state.drain, beat=beats.beat)


def _run_engine(settings: Settings, listeners: list[socket.socket], ready: Any, beats: _Beats) -> None:
    serve_both(settings, listeners, ready.set, beats.beat)
