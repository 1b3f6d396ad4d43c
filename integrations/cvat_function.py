"""Functions for CVAT that ask a Labeling Ground server: an interactor for agents, a detector for whole tasks.

This file needs cvat-sdk with its ``masks`` extra, Pillow and the standard library, and nothing of Labeling Ground:

    pip install cvat-cli "cvat-sdk[masks]"
    cvat-cli function create-native "Labeling Ground" --function-file cvat_function.py -p url=str:http://localhost:8000
    cvat-cli function run-agent ID --function-file cvat_function.py -p url=str:http://localhost:8000
    cvat-cli task auto-annotate TASK --function-file cvat_function.py -p url=str:http://localhost:8000 \\
        -p kind=str:detector -p label=str:object

An image is sent once, by the digest of its pixels as a PNG file; after that, a click carries some 200 bytes.
"""

import base64
import hashlib
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import encode_mask
from cvat_sdk.models import AttributeValRequest
from PIL import Image

_KINDS = ("interactor", "detector", "finder")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Pillow's pixel formats that a PNG file holds as they are; others become RGB."""


def create(
    url: str,
    api_key: str = "",
    kind: str = "interactor",
    label: str = "object",
    points_per_side: int = 0,
    timeout_s: float = 600.0,
    model: str = "",
) -> "Interactor | Detector | Finder":
    """The function that cvat-cli runs; its parameters are given there as ``-p NAME=TYPE:VALUE``.

    Args:
        url: address of the Labeling Ground server, with the path that it is served under, if any.
        api_key: a key of that server; by default what ``LABELING_GROUND_API_KEY`` in the environment says.
        kind: ``interactor`` (clicks and boxes), ``detector`` (all objects of an image, under one label) or ``finder``
            (all that its labels name, by a model that takes text).
        label: the label that the detector gives; the finder's labels, parted by commas: each is the phrase that
            is looked for. The task must have labels of these names.
        points_per_side: the detector's grid; 0 is the server's own.
        timeout_s: the longest that one mask, or one image of the detector, may take, with waiting for a busy server.
        model: id of the model that is asked; by default the server's default one.

    Raises:
        BadFunctionError: the address is none, or there is no such kind.
    """
    if not url.startswith(("http://", "https://")):
        raise cvataa.BadFunctionError(f"url must start with http:// or https://, unlike {url!r}")
    server = Server(url, api_key or os.environ.get("LABELING_GROUND_API_KEY", ""), timeout_s, model)
    if kind == "interactor":
        return Interactor(server)
    if kind == "detector":
        return Detector(server, label, points_per_side)
    if kind == "finder":
        return Finder(server, [each.strip() for each in label.split(",") if each.strip()])
    raise cvataa.BadFunctionError(f"kind must be one of {', '.join(_KINDS)}, unlike {kind!r}")


class Picture(NamedTuple):
    """An image as it is sent: a PNG file, its SHA-256 in hex, width and height in pixels."""

    file: bytes
    image_id: str
    width: int
    height: int


class Interactor:
    """Turns points and a box on an image into the mask of one object."""

    def __init__(self, server: "Server") -> None:
        self.spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)
        self._server = server

    def preprocess_image(self, context: cvataa.InteractionFunctionContext, image: Image.Image) -> Picture:
        """The image as it is sent to the server. The agent keeps it while the frame is worked on."""
        return picture(image)

    def detect(
        self, context: cvataa.InteractionFunctionContext, pp_image: Picture, prompts: cvataa.InteractionPrompts
    ) -> list[cvataa.InteractionResultShape]:
        """One shape: the best mask for the prompts, with its score as confidence.

        Raises:
            BadFunctionError: the server refused, or did not answer; with its sentence.
        """
        prompt: dict[str, Any] = {
            "points": [
                {"x": _inside(x, pp_image.width), "y": _inside(y, pp_image.height), "label": sign}
                for sign, points in ((1, prompts.pos_points), (0, prompts.neg_points))
                for x, y in points
            ]
        }
        if prompts.bounding_box is not None:
            prompt["box"] = [edge for corner in prompts.bounding_box for edge in corner]
        answer = self._server.ask(pp_image, "masks", {**prompt, "format": "png"})
        best = answer["masks"][0]
        score = AttributeValRequest(
            spec_id=int(cvataa.InteractionResultAttributes.CONFIDENCE), value=f"{min(1.0, max(0.0, best['score'])):.4f}"
        )
        return [cvataa.InteractionResultShape(type="mask", points=_runs(best), attributes=[score])]


class Detector:
    """Finds all objects of an image and gives them one label."""

    def __init__(self, server: "Server", label: str, points_per_side: int) -> None:
        self.spec = cvataa.DetectionFunctionSpec(labels=[cvataa.label_spec(label, 0)])
        self._server = server
        self._options = {"points_per_side": points_per_side} if points_per_side else {}

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image.Image) -> list[cvataa.DetectionAnnotation]:
        """A mask for each object; or the polygons around it, without holes, where the context wants no masks.

        Raises:
            BadFunctionError: the server refused, or did not answer; with its sentence.
        """
        least = context.conf_threshold
        options: dict[str, Any] = {**self._options, "format": "polygons" if context.conv_mask_to_poly else "png"}
        if least is not None:
            options["pred_iou_thresh"] = least
        found = self._server.ask(picture(image), "everything", options)["masks"]
        found = [one for one in found if least is None or one["score"] >= least]
        return _shapes(0, found, as_polygons=context.conv_mask_to_poly)


class Finder:
    """Finds in an image all that its labels name."""

    def __init__(self, server: "Server", labels: list[str]) -> None:
        if not labels:
            raise cvataa.BadFunctionError("label names nothing: say what to find, as in label=str:screw,nut")
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(label, number) for number, label in enumerate(labels)]
        )
        self._server = server
        self._labels = labels

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image.Image) -> list[cvataa.DetectionAnnotation]:
        """A mask for each instance of each label; or polygons, as ``Detector`` gives them.

        Raises:
            BadFunctionError: the server refused, or did not answer; with its sentence.
        """
        options: dict[str, Any] = {"format": "polygons" if context.conv_mask_to_poly else "png"}
        if context.conf_threshold is not None:
            options["score_threshold"] = context.conf_threshold
        found = self._server.ask(picture(image), "concepts", {"phrases": self._labels, **options})["concepts"]
        return [
            shape
            for number, concept in enumerate(found)
            for shape in _shapes(number, concept["instances"], as_polygons=context.conv_mask_to_poly)
        ]


class Server:
    """A Labeling Ground server.

    Args:
        url: its address.
        api_key: a key of it, or nothing.
        timeout_s: how long one ``ask`` may take in all, in seconds.
        model: id of the model that is asked, or nothing.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float, model: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._model = {"model": model} if model else {}
        # A redirect would take the key along to wherever it leads.
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, image: Picture, verb: str, body: dict[str, Any]) -> Any:
        """The server's answer to ``verb`` on an image, which is sent only where the server does not know it.

        Raises:
            BadFunctionError: it refused, or did not answer in time; with its sentence.
        """
        end = time.monotonic() + self._timeout_s
        path, content = f"/v1/images/{image.image_id}/{verb}", json.dumps({**body, **self._model}).encode()
        images = "/v1/images" + (f"?{urllib.parse.urlencode(self._model)}" if self._model else "")
        sent = False
        while True:
            status, answer, wait_s = self._post(path, content, "application/json", end)
            if status == 200:
                return answer
            if not sent and (status == 404 or str(answer.get("type")).endswith(":unreachable-image")):
                status, answer, wait_s = self._post(images, image.file, "image/png", end)
                if status == 200:
                    sent = True
                    continue
            if status != 503 or time.monotonic() + wait_s >= end:
                raise cvataa.BadFunctionError(answer["detail"])
            time.sleep(wait_s)

    def _post(self, path: str, content: bytes, media_type: str, end: float) -> tuple[int, Any, float]:
        """Status, JSON, and the seconds after which to try again."""
        headers = {"Content-Type": media_type, **self._headers}
        request = urllib.request.Request(self._url + path, content, headers)  # noqa: S310 -- http or https: ``create``
        try:
            with self._opener.open(request, timeout=max(1.0, end - time.monotonic())) as response:
                return 200, json.load(response), 0.0
        except urllib.error.HTTPError as error:
            with error:
                again = error.headers.get("Retry-After", "")
                return error.code, _problem(error, self._url), float(again) if again.isdecimal() else 1.0
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise cvataa.BadFunctionError(f"Labeling Ground at {self._url} does not answer: {reason}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def picture(image: Image.Image) -> Picture:
    """An image's pixels as a PNG file. The same pixels make the same file, and so the same image id."""
    pixels = image if image.mode in _MODES else image.convert("RGB")
    out = io.BytesIO()
    # Without what else the file held: an orientation would turn the image away from its prompts.
    pixels.save(out, "PNG", compress_level=1, exif=b"", icc_profile=None)
    file = out.getvalue()
    return Picture(file, hashlib.sha256(file).hexdigest(), *image.size)


def _shapes(label: int, found: list[dict[str, Any]], *, as_polygons: bool) -> list[cvataa.DetectionAnnotation]:
    """Masks as CVAT's annotations under a label's number; or the polygons around them, without holes."""
    if as_polygons:
        rings = [ring for one in found for ring in one["polygons"] if _is_outer(ring)]
        return [cvataa.polygon(label, [edge for point in ring for edge in point]) for ring in rings]
    return [cvataa.mask(label, _runs(one)) for one in found]


def _inside(value: float, size: int) -> float:
    """A coordinate on the image's far edge, moved onto its last pixel."""
    return size - 1 / 64 if value == size else value


def _runs(mask: dict[str, Any]) -> list[float]:
    """A mask of the server's, as CVAT writes masks: run lengths within a box, and the box."""
    with Image.open(io.BytesIO(base64.b64decode(mask["png"]))) as bitmap:
        x, y, width, height = mask["bbox"]
        runs: list[float] = encode_mask(bitmap, bbox=[x, y, x + width, y + height] if width else None)
        return runs


def _is_outer(ring: list[list[float]]) -> bool:
    """Whether a ring goes around an object, clockwise on screen, and not around a hole in it."""
    following = [*ring[1:], ring[0]]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, following, strict=True)) > 0


def _problem(error: urllib.error.HTTPError, url: str) -> dict[str, Any]:
    """What the server says of an error; or, where it was something else that answered, what that was."""
    try:
        body = json.load(error)
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("detail"), str):
        return body
    return {"detail": f"{url} answered {error.code} {error.reason}. Is it the address of Labeling Ground?"}
