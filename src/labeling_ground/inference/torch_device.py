"""Where the torch engine computes, a processor or one GPU: what is sent there and fetched, and calls as CUDA graphs."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeling_ground.errors import BadSettings

Arguments = tuple[Tensor | None, ...]
Call = Callable[..., tuple[Tensor, ...]]


class Device:
    """A processor, or one GPU.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``; or ``auto``, the first GPU where there is one that torch can use.

    Raises:
        BadSettings: there is no such device.
    """

    def __init__(self, name: str) -> None:
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.place = torch.device(name)
            torch.empty(0, device=self.place)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise BadSettings(f"torch cannot compute on {name}: {str(error).splitlines()[0]}") from error
        self.is_gpu = self.place.type == "cuda"
        self._width = threading.local()
        if self.is_gpu:
            # TF32 would make another result of the same weights, under the same model version.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    @contextlib.contextmanager
    def computing(self, threads: int, stream: Any = None) -> Iterator[None]:
        """Compute with so many threads of the processor, or in that stream of the GPU; no gradients are kept."""
        if not self.is_gpu and getattr(self._width, "threads", None) != threads:
            torch.set_num_threads(threads)  # it is this thread's alone
            self._width.threads = threads
        with torch.inference_mode(), torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            yield

    def stream(self, *, urgent: bool) -> Any:
        """A stream of a GPU, whose work goes before that of others where it is urgent; ``None`` on a processor."""
        return torch.cuda.Stream(self.place, priority=-1 if urgent else 0) if self.is_gpu else None

    def send(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """Arrays of one type, joined in their first dimension. On a processor one array is not copied."""
        if not self.is_gpu:
            return torch.from_numpy(np.concatenate(arrays) if len(arrays) > 1 else _writeable(arrays[0]))
        rows = sum(len(array) for array in arrays)
        kind = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        # From locked memory the copy needs no processor; torch keeps what was locked for the next time.
        staged = torch.empty((rows, *arrays[0].shape[1:]), dtype=kind, pin_memory=True)
        np.concatenate(arrays, out=staged.numpy())
        return staged.to(self.place, non_blocking=True)

    def fetch(self, tensors: Sequence[Tensor]) -> list[NDArray[np.float32]]:
        """Tensors as arrays of fp32 that share memory with nothing else. Waits until they are computed."""
        made = [torch.empty(x.shape, dtype=torch.float32, pin_memory=self.is_gpu) for x in tensors]
        for target, x in zip(made, tensors, strict=True):
            target.copy_(x, non_blocking=True)
        if self.is_gpu:
            torch.cuda.current_stream().synchronize()
        return [x.numpy() for x in made]


def _writeable(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy if it is read-only, of which torch would warn."""
    return np.ascontiguousarray(array) if array.flags.writeable else array.copy()


class Replays:
    """A function whose calls are recorded, one record for each combination of shapes, and replayed.

    Of a call with shapes that were not seen before, a record is made; those that were used longest ago make room. What
    a call returns is overwritten by the next one of the same shapes.

    Args:
        function: takes tensors, or ``None``, and returns tensors; each time the same for the same arguments.
        record: makes a record of one call.
        most: how many records are held.
    """

    def __init__(self, function: Call, record: Callable[[Call, Arguments], Call], most: int) -> None:
        self._function, self._record, self._most = function, record, most
        self._records: OrderedDict[object, Call] = OrderedDict()

    def __call__(self, *given: Tensor | None) -> tuple[Tensor, ...]:
        """The function's result."""
        shapes = tuple(None if x is None else (x.shape, x.dtype) for x in given)
        if shapes not in self._records:
            self._records[shapes] = self._record(self._function, given)
            if len(self._records) > self._most:
                self._records.popitem(last=False)
        self._records.move_to_end(shapes)
        return self._records[shapes](*given)


def cuda_graphs() -> Callable[[Call, Arguments], Call]:
    """What makes CUDA graphs of calls: launched as a whole, without a word from Python in between.

    They share their work memory: only one may be replayed at a time, and its results must be fetched before the next.
    The arguments of a replay are copied to where those of the recorded call lay.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(function: Call, given: Arguments) -> Call:
        own = tuple(None if x is None else x.clone() for x in given)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # the first calls compile, choose kernels, and take memory
                function(*own)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # The other half of the model may go on in its own thread meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = function(*own)

        def replay(*now: Tensor | None) -> tuple[Tensor, ...]:
            for target, x in zip(own, now, strict=True):
                if target is not None and x is not None:
                    target.copy_(x, non_blocking=True)
            graph.replay()
            return result

        return replay

    return record
