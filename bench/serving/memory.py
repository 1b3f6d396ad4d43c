"""Memory that the worst images within the limits take: ``python -m bench.serving.memory``.

Each file is as small as its format makes a picture of the largest size, and is sent to a server with its default limits
and four encode workers: one after the other, then all eight at once. What counts is the peak of the server's resident
memory above what it held before.
"""

import io
import json
import struct
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from bench.command import benchmark
from bench.serving.run import where
from bench.serving.server import Server, running


@dataclass(frozen=True)
class Plan:
    """The sides of the pictures, and whether each is sent to a server of its own, which holds nothing before."""

    side: int
    apart: bool


FULL, TOY = Plan(side=7071, apart=True), Plan(side=300, apart=False)
WORKERS = 4


def _saved(mode: str, side: int, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Pillow.new(mode, (side, side)).save(out, kind, **options)
    return out.getvalue()


def _deep_png(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer, row = zlib.compressobj(), bytes(1 + 8 * side)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _deep_tiff(side: int) -> bytes:
    out = io.BytesIO()
    samples = np.zeros((side, side, 4), np.uint16)
    tifffile.imwrite(out, samples, photometric="rgb", extrasamples=[2], compression="zlib", metadata=None)
    return out.getvalue()


FILES: dict[str, Callable[[int], bytes]] = {
    "JPEG": lambda side: _saved("RGB", side, "JPEG", subsampling=0),
    "JPEG, progressive": lambda side: _saved("RGB", side, "JPEG", subsampling=0, progressive=True),
    "PNG, RGB and alpha": lambda side: _saved("RGBA", side, "PNG"),
    "PNG, RGB and alpha of 16 bits, stretched": _deep_png,
    "WebP, lossless": lambda side: _saved("RGB", side, "WEBP", lossless=True, method=0),
    "AVIF": lambda side: _saved("RGB", side, "AVIF", speed=10),
    "TIFF, RGB and alpha of 16 bits": _deep_tiff,
    "GIF": lambda side: _saved("P", side, "GIF"),
}


def run(plan: Plan) -> dict[str, Any]:
    """Send each file alone, then all at once."""
    files = {name: make(plan.side) for name, make in FILES.items()}
    rows: list[dict[str, Any]] = []
    with ExitStack() as servers:
        for name, file in files.items():
            if plan.apart or not rows:
                servers.close()
                server = servers.enter_context(_server())
            rows.append({"name": name, "bytes": len(file), "peak_mb": _peak(server, {name: file})})
    with _server() as server:
        together = _peak(server, files)
    return {"where": where(), "pixels": plan.side**2, "workers": WORKERS, "alone": rows, "together_mb": together}


def _server() -> Any:
    return running(encode_workers=str(WORKERS), memory_bytes=str(256 << 20))


def _peak(server: Server, files: dict[str, bytes]) -> float:
    before = server.memory_mb("VmRSS")
    Path(f"/proc/{server.pid}/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(lambda item: _send(server, *item), files.items()))
    return server.memory_mb("VmHWM") - before


def _send(server: Server, name: str, file: bytes) -> None:
    query = "?stretch=1,99" if "stretched" in name else ""
    url = f"http://127.0.0.1:{server.port}/v1/images{query}"
    with urllib.request.urlopen(urllib.request.Request(url, file), timeout=600) as answer:
        json.load(answer)


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    million, found = result["pixels"] / 1e6, result["where"]
    lines = [
        f"Machine: {found['machine']}; commit {found['commit']}; {found['date']}.",
        "",
        f"Pictures of {million:.3g} million pixels, {result['workers']} encode workers, the weight-free engine, "
        "default limits. Peak of the server's resident memory above what it held before.",
        "",
        "| file | its bytes | peak MB | bytes a pixel |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['name']} | {row['bytes']:,} | {row['peak_mb']:.0f} | {row['peak_mb'] / million:.1f} |"
        for row in result["alone"]
    ]
    return "\n".join([*lines, f"| all eight at once | | {result['together_mb']:.0f} | |"])


if __name__ == "__main__":
    benchmark("bench.serving.memory", "Memory", run, table, FULL, TOY)
