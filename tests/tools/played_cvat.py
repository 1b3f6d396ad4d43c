"""A CVAT server of one task with one image, as far as cvat-cli's agents and ``task auto-annotate`` look at it."""

import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

WIDTH, HEIGHT = 120, 80


@dataclass
class PlayedCvat:
    """What it was asked and told.

    Attributes:
        image: the file of the task's one frame.
        labels: names of the task's labels; their ids count from 7.
        waiting: what agents get to do, one by one: the request's id, and its parameters.
        functions: the functions that were created.
        completed: shapes by the request's id.
        failed: the sentence that the annotator sees, by the request's id.
        annotations: what was written into the task.
    """

    image: bytes
    labels: Sequence[str] = ("object",)
    waiting: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    functions: list[dict[str, Any]] = field(default_factory=list)
    completed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def interact(
        self,
        name: str,
        pos_points: Sequence[Sequence[float]] = (),
        neg_points: Sequence[Sequence[float]] = (),
        obj_bbox: Sequence[Sequence[float]] = (),
        roi: Sequence[int] | None = None,
    ) -> None:
        """An annotator clicks."""
        asked: dict[str, Any] = {"type": "interact", "task": 1, "frame": 0}
        asked |= {"pos_points": pos_points, "neg_points": neg_points, "obj_bbox": obj_bbox}
        if roi is not None:
            asked["roi"] = roi
        self.waiting.append((name, asked))

    def detect(self, name: str, threshold: float, *, polygons: bool = False) -> None:
        """An annotator asks for all objects of the frame."""
        asked: dict[str, Any] = {"type": "annotate_frame", "task": 1, "frame": 0, "threshold": threshold}
        labels = {name: {"name": name, "attributes": {}} for name in self.labels}
        self.waiting.append((name, asked | {"mapping": labels, "conv_mask_to_poly": polygons}))

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """The answer to a call: JSON, or a file's bytes."""
        if path == "/api/server/about":
            return {"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "", "subtitle": ""}
        if path == "/api/functions" and method == "POST":
            labels = [{"type": "any", "attributes": [], **label} for label in body.pop("labels_v2", [])]
            unsaid = {"min_neg_points": -1, "startswith_box": False, "labels_v2": labels}
            self.functions.append({"id": len(self.functions) + 1, **unsaid, **body})
            return self.functions[-1]
        if found := re.fullmatch(r"/api/functions/(\d+)", path):
            return self.functions[int(found[1]) - 1]
        if path.endswith("/requests/acquire"):
            name, asked = self.waiting.pop(0) if self.waiting else ("", None)
            return {"ar_assignment": None if asked is None else {"ar_id": name, "ar_params": asked}}
        if found := re.fullmatch(r"/api/functions/queues/[^/]+/requests/([^/]+)/(complete|fail)", path):
            if found[2] == "complete":
                self.completed[found[1]] = body["shapes"] if "shapes" in body else body["annotations"]["shapes"]
            else:
                self.failed[found[1]] = body["exc_info"]
            return {}
        if path == "/api/labels":
            about = {"color": "#ffffff", "type": "any", "attributes": [], "sublabels": []}
            labels = [{"id": number, "name": name, **about} for number, name in enumerate(self.labels, 7)]
            return {"count": len(labels), "next": None, "previous": None, "results": labels}
        if path == "/api/tasks/1":
            return _TASK
        if path == "/api/tasks/1/data/meta":
            return _META
        if path == "/api/tasks/1/data/":
            return self.image if query["type"] == ["frame"] else _zipped(self.image)
        if path == "/api/tasks/1/annotations/":
            self.annotations += body["shapes"]
            return {"version": 1, "tags": [], "shapes": [], "tracks": []}
        raise KeyError(f"{method} {path}")


_TASK = {
    "url": "http://cvat/api/tasks/1", "id": 1, "name": "task", "project_id": None, "mode": "annotation", "owner": None,
    "assignee": None, "bug_tracker": "", "overlap": 0, "segment_size": 1, "status": "annotation", "size": 1,
    "data_chunk_size": 1, "data_compressed_chunk_type": "imageset", "data_original_chunk_type": "imageset",
    "dimension": "2d", "subset": "", "organization": None, "organization_id": None, "guide_id": None, "data": 1,
    "created_date": "2026-01-01T00:00:00Z", "updated_date": "2026-01-01T00:00:00Z",
    "jobs": {"count": 1, "completed": 0, "validation": 0, "url": "http://cvat/api/jobs"},
    "labels": {"url": "http://cvat/api/labels"}, "source_storage": None, "target_storage": None,
}  # fmt: skip
_META = {
    "chunk_size": 1, "size": 1, "image_quality": 70, "start_frame": 0, "stop_frame": 0, "frame_filter": "",
    "frames": [{"width": WIDTH, "height": HEIGHT, "name": "frame.png", "related_files": 0}], "deleted_frames": [],
    "included_frames": None, "chunks_updated_date": "2026-01-01T00:00:00Z",
}  # fmt: skip


def _zipped(file: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("000000.png", file)
    return out.getvalue()


@contextmanager
def played_cvat(image: bytes, *labels: str) -> Iterator[PlayedCvat]:
    """It listens at ``url``."""
    cvat = PlayedCvat(image, labels or ("object",))

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            asked = json.loads(body) if body else None
            try:
                found = cvat.answer(self.command, parts.path.replace("%3A", ":"), parse_qs(parts.query), asked)
                status = 200
            except KeyError as error:  # shown in the client's log
                found, status = {"detail": f"not played: {error}"}, 404
            is_file = isinstance(found, bytes)
            content = found if is_file else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if is_file else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815 -- the standard library's words

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        cvat.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield cvat
        finally:
            server.shutdown()
            thread.join(60)
