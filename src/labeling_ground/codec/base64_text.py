"""Base64 as clients write it."""

import base64
import binascii
import re

_OTHER = re.compile(r"[^A-Za-z0-9+/]")


def decode(text: str) -> bytes:
    """The bytes of a base64 text: standard or URL-safe alphabet, padded or not, in lines, with or without ``data:``.

    Raises:
        ValueError: it is none; the message goes on where a sentence began with the text's name.
    """
    text = text.removeprefix("\ufeff").lstrip()
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise ValueError("is a data: URL that is not in base64; write data:image/png;base64, in front of it")
    digits = "".join(text.split())
    if "-" in digits or "_" in digits:
        digits = digits.replace("-", "+").replace("_", "/")
    digits = digits.rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(_reason(digits)) from None


def _reason(digits: str) -> str:
    if re.search("%[0-9A-Fa-f]{2}", digits):
        return "is base64 in percent-encoding (%2B, %2F, %3D); send it without"
    if re.match("b['\"]", digits):
        return "is what Python shows of bytes; send base64.b64encode(…).decode()"
    other = _OTHER.search(digits)
    if other is None:
        return f"is not valid base64: it ends within a byte, after {len(digits)} characters; something was cut off"
    return f"is not valid base64: {other.group()!r} at character {other.start()} is no digit of it"
