"""`helm test`: open one image, click on it, click there again; the second click must be a hit with the same mask.

    python open_click_hit.py http://proxy

Standard library only. API_KEYS: keys, separated by commas, of which the first is sent.
"""

import json
import os
import random
import struct
import sys
import urllib.error
import urllib.request
import zlib
from typing import Any


def png(side: int = 256) -> bytes:
    """A picture that nobody has sent before: a bright square on noise."""
    rows = bytearray()
    for y in range(side):
        rows.append(0)
        for x in range(side):
            is_inside = side // 4 <= x < 3 * side // 4 and side // 4 <= y < 3 * side // 4
            rows.append(min(255, random.randrange(40) + 200 * is_inside))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packed = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + packed


def post(url: str, body: bytes, media_type: str) -> Any:
    """The answer's JSON. Ends with the server's own sentence where it refuses."""
    headers = {"Content-Type": media_type}
    if key := os.environ.get("API_KEYS", "").split(",")[0].strip():
        headers["Authorization"] = f"Bearer {key}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=180) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{url} answered {error.code}: {error.read().decode(errors='replace')}")


def main(server: str) -> None:
    """Open, click, click again."""
    opened = post(f"{server}/v1/images", png(), "image/png")
    print(f"open:  {opened['outcome']}, {opened['model']}")
    click = json.dumps({"points": [{"x": 128, "y": 128}]}).encode()
    first, second = (
        post(f"{server}/v1/images/{opened['image_id']}/masks", click, "application/json") for _ in range(2)
    )
    print(f"click: {first['outcome']}\nagain: {second['outcome']}")
    if second["outcome"] != "hit":
        sys.exit("The second click was no hit: the proxies do not share a cache.")
    if first["masks"] != second["masks"]:
        sys.exit("The second click got another mask than the first.")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
