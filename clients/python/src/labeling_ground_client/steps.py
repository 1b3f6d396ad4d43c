"""The client without its input and output, so that it is written once for blocking and asynchronous programs.

What a verb does is a generator: it yields each call that is to be sent, is sent the answer to it, and returns the
verb's result. ``client.py`` runs these generators, once with ``httpx.Client`` and once with ``httpx.AsyncClient``.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import httpx

from labeling_ground_client.errors import ClientError, ProblemError, UnreachableError, problem_of
from labeling_ground_client.source import Source, image_id_of
from labeling_ground_client.values import (
    Box,
    Embedding,
    EverythingOptions,
    Found,
    Instance,
    MaskInput,
    Points,
    Prediction,
    Prompt,
    found_from,
    prediction_from,
)

T = TypeVar("T")
Reply = httpx.Response | httpx.RequestError
JSON = "application/json"
NDJSON = "application/x-ndjson"
_LEAST_PAUSE_S = 0.1
"""Seconds between two calls, also where a server says that it may be asked again at once."""


@dataclass(frozen=True)
class Call:
    """One HTTP request that is to be sent.

    Attributes:
        read: gives the request's body. Blocking.
        wanted: content type of the answer.
        pause_s: seconds to wait before it is sent.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    read: Callable[[], bytes] | None = None
    wanted: str = JSON
    pause_s: float = 0.0

    @property
    def is_stream(self) -> bool:
        """Whether the answer's body is read piece by piece, by who gets it, unless it is not the wanted answer."""
        return self.wanted == NDJSON

    def is_answered_by(self, reply: httpx.Response) -> bool:
        """Whether the reply is the wanted answer, and no error or somebody else's page."""
        return reply.is_success and reply.headers.get("content-type", "").startswith(self.wanted)


Steps = Generator[Call, Reply, T]


@dataclass(frozen=True)
class Service:
    """How one server is talked to.

    Attributes:
        url: the server's address, as the program gave it.
        retry_for_s: most seconds that one call waits, all pauses together, for a server that answers 503.
        mask_format: how masks travel.
    """

    url: str
    retry_for_s: float
    mask_format: Literal["rle", "png"]

    def answer_to(self, call: Call) -> Steps[httpx.Response]:
        """The answer to a call: sent again after a 503 when the server said so, and once after a broken connection.

        Raises:
            ProblemError: the server refused, or is still too busy.
            UnreachableError: no answer came.
            ClientError: the answer is of another type than the API's.
        """
        left_s = self.retry_for_s
        was_broken = False
        while True:
            reply = yield call
            if isinstance(reply, httpx.RequestError):
                # A server that restarts breaks connections that were open. All calls may be sent twice.
                if was_broken or not isinstance(reply, httpx.NetworkError | httpx.RemoteProtocolError):
                    raise unreachable(self.url, reply) from reply
                was_broken = True
                call = replace(call, pause_s=0.0)
                continue
            if call.is_answered_by(reply):
                return reply
            if reply.is_success:
                raise ClientError(
                    f"{self.url} answered with {reply.headers.get('content-type')} where {call.wanted} was expected. "
                    "Is it the address of a Labeling Ground server, and no page in front of it?"
                )
            problem = problem_of(reply)
            pause_s = max(problem.retry_after_s or 0.0, _LEAST_PAUSE_S)
            if problem.status != 503 or pause_s > left_s:
                raise problem
            left_s -= pause_s
            call = replace(call, pause_s=pause_s)


def unreachable(url: str, error: httpx.RequestError) -> UnreachableError:
    """The error of a call that got no whole answer."""
    if isinstance(error, httpx.ConnectError):
        return UnreachableError(f"{url} cannot be reached ({error}). Is the server running, and is this its address?")
    return UnreachableError(f"{url} gave no whole answer: {str(error) or type(error).__name__}")


class ImageSteps:
    """The verbs of one image that the server knows.

    Attributes:
        id: the image id.
        width: columns of what is segmented, upright.
        height: rows of it.
        model: the model that is asked; ``None`` is the server's default.
        note: what the server remarks on how the file was read, and on the model; ``None`` where nothing is said.
    """

    def __init__(
        self, service: Service, source: Source, model: str | None, stretch: tuple[float, float] | None
    ) -> None:
        self.service = service
        self.source = source
        self.stretch = stretch
        self.model = model
        self.id = image_id_of(source, stretch)
        self.width = self.height = 0
        self.note: str | None = None

    def open(self) -> Steps[None]:
        """See whether the server knows the image, and send it only if not."""
        try:
            reply = yield from self.service.answer_to(Call("GET", self._path(), params=self._model()))
        except ProblemError as problem:
            if not problem.is_of_type("unknown-image"):
                raise
            reply = yield from self._upload()
        about = reply.json()
        self.width, self.height, self.note = about["width"], about["height"], about.get("note")

    def predict(
        self,
        points: Points = (),
        box: Box | None = None,
        mask_input: MaskInput | None = None,
        *,
        multimask: bool = True,
    ) -> Steps[Prediction]:
        """The masks of one object.

        Args:
            points: ``(x, y)`` or ``(x, y, label)`` each, in pixels; label 1, the default, is on the object, 0 off it.
            box: two opposite corners, ``(x0, y0, x1, y1)``.
            mask_input: the mask to start from: an earlier prediction, ``(prediction, index)`` for another one of its
                candidates, an instance that was found, or low-res logits ``[256, 256]``.
            multimask: whether up to three nested candidates are wanted, or the best one.

        Raises:
            ProblemError: the server refused.
            UnreachableError: no answer came.
        """
        return (yield from self._predict(Prompt(points, box, mask_input), multimask))

    def predict_many(self, prompts: Sequence[Prompt], *, multimask: bool = True) -> Steps[list[Prediction]]:
        """The masks of several objects, by one call: a prediction for each prompt, in their order."""
        body = {"prompts": [prompt.as_json() for prompt in prompts], "multimask": multimask}
        answer = yield from self._masks(body, prompts)
        pairs = zip(answer["predictions"], prompts, strict=True)
        return [prediction_from(one, prompt, answer, multimask=multimask) for one, prompt in pairs]

    def click(self, x: float, y: float, label: int = 1, *, multimask: bool = True) -> Steps[Prediction]:
        """The masks of the object at a point, in pixels."""
        return (yield from self._predict(Prompt([(x, y, label)]), multimask))

    def box(self, x0: float, y0: float, x1: float, y1: float, *, multimask: bool = True) -> Steps[Prediction]:
        """The masks of the object in a box, given by two opposite corners in pixels."""
        return (yield from self._predict(Prompt(box=(x0, y0, x1, y1)), multimask))

    def refine(
        self,
        prediction: Prediction | Instance,
        x: float,
        y: float,
        label: int = 1,
        *,
        candidate: int = 0,
        multimask: bool = True,
    ) -> Steps[Prediction]:
        """The masks after one more click: all that was pointed at before, the click, and the mask so far to start from.

        Args:
            prediction: what is to be refined; or an instance that was found.
            x: the click's column in pixels.
            y: its row.
            label: 1 for a click on the object, 0 for one off it.
            candidate: which of the prediction's masks to start from; 0 is the best.
            multimask: whether up to three nested candidates are wanted, or the best one.
        """
        if isinstance(prediction, Instance):
            prompt = Prompt([(x, y, label)], mask_input=prediction)
        else:
            asked = prediction.prompt
            prompt = Prompt([*asked.points, (x, y, label)], asked.box, (prediction, candidate))
        return (yield from self._predict(prompt, multimask))

    def embedding(self) -> Steps[Embedding]:
        """The image's embedding: the model's tensors by name."""
        reply = yield from self._known(
            Call("GET", self._path("/embedding"), params=self._model(), wanted="application/octet-stream")
        )
        return Embedding(reply.content)

    def everything(self, options: EverythingOptions) -> Steps[httpx.Response]:
        """The open stream of «segment everything»."""
        body = {**options, **self._model(), "format": self.service.mask_format}
        return (yield from self._known(Call("POST", self._path("/everything"), json=body, wanted=NDJSON)))

    def find(
        self,
        phrase: str | None = None,
        *,
        exemplars: Sequence[Box] = (),
        unlike: Sequence[Box] = (),
        score_threshold: float = 0.5,
        max_instances: int | None = None,
    ) -> Steps[Found]:
        """All instances of what a phrase names, or of what is like exemplars, or of both together.

        Args:
            phrase: a noun, with what tells it from others: «red screw».
            exemplars: boxes around objects of this image that are meant, ``(x0, y0, x1, y1)`` in pixels.
            unlike: boxes around objects that are not.
            score_threshold: least score of an instance, 0 to 1.
            max_instances: at most so many, the best; all if left out.

        Raises:
            ProblemError: the server refused; its model may not find concepts.
            UnreachableError: no answer came.
        """
        phrases = None if phrase is None else [phrase]
        [found] = yield from self._found(_concepts(phrases, exemplars, unlike, score_threshold, max_instances))
        return found

    def find_many(
        self,
        phrases: Sequence[str],
        *,
        exemplars: Sequence[Box] = (),
        unlike: Sequence[Box] = (),
        score_threshold: float = 0.5,
        max_instances: int | None = None,
    ) -> Steps[list[Found]]:
        """All instances of several phrases, by one call: what was found of each, in their order."""
        return (yield from self._found(_concepts(phrases, exemplars, unlike, score_threshold, max_instances)))

    def delete(self) -> Steps[int]:
        """How many entries went: has the server forget the image and all that was computed from it."""
        reply = yield from self.service.answer_to(Call("DELETE", self._path()))
        deleted: int = reply.json()["deleted"]
        return deleted

    def _path(self, rest: str = "") -> str:
        return f"/v1/images/{self.id}{rest}"

    def _model(self) -> dict[str, str]:
        return {} if self.model is None else {"model": self.model}

    def _upload(self) -> Steps[httpx.Response]:
        stretch = {} if self.stretch is None else {"stretch": ",".join(f"{round(at, 2):g}" for at in self.stretch)}
        call = Call("POST", "/v1/images", params=self._model() | stretch, read=self.source.read)
        return (yield from self.service.answer_to(call))

    def _known(self, call: Call) -> Steps[httpx.Response]:
        """The answer to a call about the image, which is sent again if the server has forgotten it meanwhile."""
        try:
            return (yield from self.service.answer_to(call))
        except ProblemError as problem:
            if not problem.is_of_type("unknown-image"):
                raise
        yield from self._upload()
        return (yield from self.service.answer_to(call))

    def _found(self, asked: Mapping[str, Any]) -> Steps[list[Found]]:
        body = {**asked, **self._model(), "format": self.service.mask_format}
        answer = (yield from self._known(Call("POST", self._path("/concepts"), json=body))).json()
        return [found_from(one, answer, asked) for one in answer["concepts"]]

    def _predict(self, prompt: Prompt, multimask: bool) -> Steps[Prediction]:
        answer = yield from self._masks(prompt.as_json() | {"multimask": multimask}, [prompt])
        return prediction_from(answer, prompt, answer, multimask=multimask)

    def _masks(self, body: Mapping[str, Any], prompts: Sequence[Prompt]) -> Steps[dict[str, Any]]:
        body = {**body, **self._model(), "format": self.service.mask_format}
        call = Call("POST", self._path("/masks"), json=body)
        try:
            reply = yield from self._known(call)
        except ProblemError as problem:
            refined = [prompt.refined for prompt in prompts if prompt.refined is not None]
            if not problem.is_of_type("unknown-prediction") or not refined:
                raise
            # The earlier masks went from the cache: they are asked for again, as the server's sentence says.
            for earlier in refined:
                if isinstance(earlier, Instance):
                    yield from self._found(earlier.asked)
                else:
                    yield from self._predict(earlier.prompt, earlier.multimask)
            reply = yield from self._known(call)
        answer: dict[str, Any] = reply.json()
        return answer


def _concepts(
    phrases: Sequence[str] | None,
    exemplars: Sequence[Box],
    unlike: Sequence[Box],
    score_threshold: float,
    max_instances: int | None,
) -> dict[str, Any]:
    body: dict[str, Any] = {"score_threshold": score_threshold}
    if phrases is not None:
        body["phrases"] = list(phrases)
    if max_instances is not None:
        body["max_instances"] = max_instances
    boxes = [(box, True) for box in exemplars] + [(box, False) for box in unlike]
    body["exemplars"] = [{"box": [float(side) for side in box], "positive": positive} for box, positive in boxes]
    return body
