"""The work memory that ONNX Runtime's encoders have in common on the processor; given back when none runs for a while.

An arena keeps its largest extent for ever: 0.5 GB for MobileSAM, 4 to 7 GB for ViT-B. To give that back after each
image costs a quarter of MobileSAM's time, as the system then hands out zeroed pages anew; without any arena ViT-B takes
half as long again.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Iterator

import numpy as np
import onnxruntime

from labeling_ground.inference.memory import also_give_back

_NOTHING = bytes.fromhex(
    "080a3a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a"
    "08080112040a02080142040a001014"
)
"""An ONNX file whose one node hands its input on, ``y = Identity(x)`` of one float: without the package ``onnx``."""
_MAKING = threading.Lock()
SLOW_S = 2.0
"""What takes longer does not keep its work memory: ViT-B gains nothing by that, and would hold gigabytes."""


class CommonArena:
    """ONNX Runtime frees an arena only at the end of a run, so a graph of nothing runs in it to have that done."""

    def __init__(self) -> None:
        info = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(info, None)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._nothing = onnxruntime.InferenceSession(_NOTHING, options, providers=["CPUExecutionProvider"])
        self._shrinking = onnxruntime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._lock = threading.Lock()
        self._running = 0
        self._timer = threading.Timer(0, self.give_back)
        self.give_back()  # the first extent of an arena is never freed: let it be a small one

    @contextlib.contextmanager
    def in_use(self, idle_s: float) -> Iterator[None]:
        """While something is computed in it. So many seconds after the last one it is given back; at once if that was
        slow, as it is large then, and new pages take a small part of the time.
        """
        with self._lock:
            self._running += 1
            self._timer.cancel()
        started = time.monotonic()
        try:
            yield
        finally:
            at_once = idle_s <= 0 or time.monotonic() - started > SLOW_S
            with self._lock:
                self._running -= 1
                self._timer.cancel()
                if not self._running and not at_once:
                    self._timer = threading.Timer(idle_s, self.give_back)
                    self._timer.daemon = True
                    self._timer.start()
            if at_once:
                self.give_back()

    def give_back(self) -> None:
        """Give the system what is not in use now."""
        self._nothing.run(None, {"x": np.zeros(1, np.float32)}, self._shrinking)


def common_arena() -> CommonArena:
    """The one of this process."""
    with _MAKING:
        return _common_arena()


@functools.cache
def _common_arena() -> CommonArena:
    made = CommonArena()
    also_give_back(made.give_back)
    return made
