"""Base64 as clients write it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling_ground.codec import base64_text

DATA = bytes(range(256)) * 3 + b"\xff"
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA).decode().rstrip("="),
        base64.encodebytes(DATA).decode(),
        base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
        f"  \n{TEXT}\t\n",
        f"\ufeff{TEXT}",
        f"data:image/png;base64,{TEXT}",
        f" \n data:image/png;base64, {TEXT}",
        f"DATA:image/png;name=a.png;BASE64,{TEXT}",
        f"data:;base64,{base64.urlsafe_b64encode(DATA).decode()}",
    ],
)
def test_every_dialect_is_read(text: str) -> None:
    assert base64_text.decode(text) == DATA


@given(data=st.binary(max_size=60), padded=st.booleans(), safe=st.booleans(), every=st.integers(1, 80))
def test_whatever_was_encoded_comes_back(data: bytes, padded: bool, safe: bool, every: int) -> None:
    text = (base64.urlsafe_b64encode if safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    lines = "\n".join(text[start : start + every] for start in range(0, len(text), every))
    assert base64_text.decode(lines) == data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:image/png,%89PNG", "data: URL that is not in base64"),
        ("data:image/png;base64", "data: URL that is not in base64"),
        (TEXT.replace("+", "%2B"), "percent-encoding"),
        (str(base64.b64encode(DATA)), "Python shows of bytes"),
        ("abcde", "after 5 characters; something was cut off"),
        ("ab!d", "'!' at character 2"),
        ("ab=d", "'=' at character 2"),
        ("ab\u00fcd", "'ü' at character 2"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^is ") as caught:
        base64_text.decode(text)
    assert said in str(caught.value)
