"""The clients: what runs the steps, blocking and asynchronously, and the verbs that programs call."""

import functools
import time
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack

import anyio
import anyio.to_thread
import httpx

from labeling_ground_client.everything import AsyncEverything, Everything
from labeling_ground_client.source import ImageLike, source_of
from labeling_ground_client.steps import Call, ImageSteps, Reply, Service, Steps
from labeling_ground_client.values import EverythingOptions

T = TypeVar("T")
P = ParamSpec("P")


class _AnyClient:
    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        model: str | None = None,
        timeout_s: float = 120.0,
        retry_for_s: float = 60.0,
        mask_format: Literal["rle", "png"] = "rle",
        client_id: str | None = None,
        priority: Literal["interactive", "prefetch", "job"] | None = None,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare to talk to a server; nothing is sent yet.

        Args:
            url: the server's address, such as ``http://127.0.0.1:8000``, with the path that it lives below, if any.
            key: an API key, where the server wants one.
            model: the model to ask; the server's default one if left out.
            timeout_s: longest silence, in seconds, while waiting for an answer. An encode on a CPU can take a minute.
            retry_for_s: most seconds that one call waits for a server that answers 503 (too busy); 0 does not wait.
            mask_format: how masks travel: ``rle`` (COCO run lengths, small) or ``png``.
            client_id: who works, such as an annotator's name; the cache keeps what each of them is working on.
            priority: how urgent the asks are (``X-Priority``): a ``job`` stays behind what people wait for.
            transport: a transport of httpx, for certificates, proxies or tests.
        """
        self.model = model
        self._service = Service(url, retry_for_s, mask_format)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if client_id:
            headers["X-Client-Id"] = client_id
        if priority:
            headers["X-Priority"] = priority
        self._connect(base_url=url, headers=headers, timeout=timeout_s, transport=transport)

    def _connect(self, **options: Any) -> None:
        raise NotImplementedError

    def _steps_of(self, image: ImageLike, model: str | None, stretch: tuple[float, float] | None) -> ImageSteps:
        """The steps of an image, which is read and hashed. Blocking."""
        return ImageSteps(self._service, source_of(image), model or self.model, stretch)


class _AnyImage:
    """What is known of an image.

    Attributes:
        id: the image id: SHA-256 of the file, and how it is stretched.
        width: columns of what is segmented (EXIF orientation applied), and of every mask.
        height: rows of it.
        model: the model that is asked; ``None`` is the server's default one.
        note: what the server remarks on how the file was read, and on the model; ``None`` where nothing is said.
    """

    def __init__(self, steps: ImageSteps) -> None:
        self._steps = steps
        self.id = steps.id
        self.width = steps.width
        self.height = steps.height
        self.model = steps.model
        self.note = steps.note


def _blocking(verb: Callable[Concatenate[ImageSteps, P], Steps[T]]) -> Callable[Concatenate["Image", P], T]:
    """The verb as a method of ``Image``, with its arguments and its docstring."""

    @functools.wraps(verb)
    def run(self: "Image", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._client.run(verb(self._steps, *args, **kwargs))

    return run


def _awaitable(
    verb: Callable[Concatenate[ImageSteps, P], Steps[T]],
) -> Callable[Concatenate["AsyncImage", P], Awaitable[T]]:
    """The verb as a method of ``AsyncImage``, with its arguments and its docstring."""

    @functools.wraps(verb)
    async def run(self: "AsyncImage", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._client.run(verb(self._steps, *args, **kwargs))

    return run


class Image(_AnyImage):
    """An image that the server knows, and what can be asked of it."""

    def __init__(self, client: "Client", steps: ImageSteps) -> None:
        self._client = client
        super().__init__(steps)

    predict = _blocking(ImageSteps.predict)
    predict_many = _blocking(ImageSteps.predict_many)
    click = _blocking(ImageSteps.click)
    box = _blocking(ImageSteps.box)
    refine = _blocking(ImageSteps.refine)
    find = _blocking(ImageSteps.find)
    find_many = _blocking(ImageSteps.find_many)
    embedding = _blocking(ImageSteps.embedding)
    delete = _blocking(ImageSteps.delete)

    def everything(self, **options: Unpack[EverythingOptions]) -> Everything:
        """All masks of the image, as they are found; returns when the image is encoded and the grid has begun."""
        return Everything(self._client.run(self._steps.everything(options)))


class AsyncImage(_AnyImage):
    """What ``Image`` is, with verbs that are awaited."""

    def __init__(self, client: "AsyncClient", steps: ImageSteps) -> None:
        self._client = client
        super().__init__(steps)

    predict = _awaitable(ImageSteps.predict)
    predict_many = _awaitable(ImageSteps.predict_many)
    click = _awaitable(ImageSteps.click)
    box = _awaitable(ImageSteps.box)
    refine = _awaitable(ImageSteps.refine)
    find = _awaitable(ImageSteps.find)
    find_many = _awaitable(ImageSteps.find_many)
    embedding = _awaitable(ImageSteps.embedding)
    delete = _awaitable(ImageSteps.delete)

    async def everything(self, **options: Unpack[EverythingOptions]) -> AsyncEverything:
        """All masks of the image, as they are found; returns when the image is encoded and the grid has begun."""
        return await AsyncEverything.begun(await self._client.run(self._steps.everything(options)))


class Client(_AnyClient):
    """A client of one server, for blocking programs. Threads may share it."""

    _http: httpx.Client

    def _connect(self, **options: Any) -> None:
        self._http = httpx.Client(**options)
        weakref.finalize(self, self._http.close)  # three lines close nothing

    def open(self, image: ImageLike, *, model: str | None = None, stretch: tuple[float, float] | None = None) -> Image:
        """The image on the server, which is sent only if the server does not know it yet.

        Args:
            image: a path, an image file's bytes, a Pillow image, or a numpy array (``uint8``, RGB or grey).
            model: the model to ask; the client's one if left out.
            stretch: two percentiles: the values between them are spread over the full range, for dark data of 10 to 14
                bits in 16-bit files.

        Raises:
            ProblemError: the server refused.
            UnreachableError: no answer came.
        """
        steps = self._steps_of(image, model, stretch)
        self.run(steps.open())
        return Image(self, steps)

    def run(self, steps: Steps[T]) -> T:
        """The result of a verb's steps: sends each call and hands the answer on."""
        try:
            call = next(steps)
            while True:
                call = steps.send(self._send(call))
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, call: Call) -> Reply:
        if call.pause_s:
            time.sleep(call.pause_s)
        content = None if call.read is None else call.read()
        try:
            reply = self._http.send(
                self._http.build_request(**_arguments(call), content=content), stream=call.is_stream
            )
            if not call.is_answered_by(reply):
                reply.read()
        except httpx.RequestError as error:
            return error
        return reply

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_AnyClient):
    """What ``Client`` is, for asynchronous programs."""

    _http: httpx.AsyncClient

    def _connect(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def open(
        self, image: ImageLike, *, model: str | None = None, stretch: tuple[float, float] | None = None
    ) -> AsyncImage:
        """What ``Client.open`` does. The file is read in a thread."""
        steps = await anyio.to_thread.run_sync(self._steps_of, image, model, stretch)
        await self.run(steps.open())
        return AsyncImage(self, steps)

    async def run(self, steps: Steps[T]) -> T:
        """The result of a verb's steps: sends each call and hands the answer on."""
        try:
            call = next(steps)
            while True:
                call = steps.send(await self._send(call))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, call: Call) -> Reply:
        if call.pause_s:
            await anyio.sleep(call.pause_s)
        content = None if call.read is None else await anyio.to_thread.run_sync(call.read)
        try:
            request = self._http.build_request(**_arguments(call), content=content)
            reply = await self._http.send(request, stream=call.is_stream)
            if not call.is_answered_by(reply):
                await reply.aread()
        except httpx.RequestError as error:
            return error
        return reply

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _arguments(call: Call) -> dict[str, Any]:
    """The call as arguments of ``build_request``, but for a body that has to be read."""
    headers = {"Accept": call.wanted}
    if call.read is not None:
        headers["Content-Type"] = "application/octet-stream"
    return {"method": call.method, "url": call.path, "params": call.params, "json": call.json, "headers": headers}
