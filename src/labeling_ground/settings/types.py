"""Types of settings that are more than their Python type: lists in one variable, addresses, paths, names of hosts."""

import re
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

T = TypeVar("T")
ENGINE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What an engine can be called in a path; for pydantic, whose ``$`` is the very end of a text."""
OIP_VERSION = r"^(auto|none|[0-9]{1,19})$"
"""A version that an inference server serves."""
EngineProtocol = Literal["labeling-ground", "oip"]
AdapterName = Literal["all", "none", "label-studio", "x-anylabeling", "roboflow", "cvat", "qupath"]


def whole_size(text: str) -> str:
    """The same text, if all of it is a size such as ``2GiB``: of ``1,5GiB``, pydantic would read one byte.

    Raises:
        ValueError: it is no number with a unit.
    """
    if re.fullmatch(r"\d*\.?\d+\s*[A-Za-z]*", text) is None:
        raise ValueError("a size is a number and a unit")
    return text


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:  # somebody meant it to hold something: an open server would be a surprise
        raise ValueError("there is nothing between its commas")
    return parts


def _address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("an address begins with http:// or https://")
    parts = urlsplit(value)
    if not parts.hostname or parts.port == 0:  # a port that is no number raises by itself
        raise ValueError("there is no host in it, or its port is none")
    if parts.query or parts.fragment:
        raise ValueError("an address ends before '?' and '#'")
    return value


def _engine(value: str) -> str:
    if not value.startswith(("http://", "https://", "dns+http://")):
        raise ValueError("an engine's address begins with http://, https:// or dns+http://")
    _address(value.removeprefix("dns+"))
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"[\w./~-]*", value):
        raise ValueError(f"{value!r} is no path; write it without scheme, name and query, such as /label")
    return f"/{value.strip('/')}" if value.strip("/") else ""


def _host_name(name: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*\.?", name):
        raise ValueError(f"{name!r} is no host name; write it without scheme and port, such as label.example.org")
    return name.lower().removesuffix(".")


def _source(name: str) -> str:
    host = r"(private:)?((\*\.)?[\w-]+(\.[\w-]+)*\.?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
    if not re.fullmatch(rf"\*|{host}|(s3|gs|azure)://[\w.-]+(/.*)?", name, re.IGNORECASE):
        raise ValueError(
            f"{name!r} is no source; write a host without scheme and path, such as images.example.org, or a bucket "
            "such as s3://photos"
        )
    if int(name.rpartition(":")[2] if re.search(r":[0-9]+$", name) else 1) not in range(1, 65_536):
        raise ValueError(f"{name!r} has no port that there is")
    return name


def _origin(text: str) -> str:
    """An origin as browsers write it: in lower case, without a closing slash and a port that the scheme implies."""
    origin = text.lower().removesuffix("/")
    if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]+", origin):
        raise ValueError(f"{text!r} is no web origin; write scheme, name and port, such as https://label.example.org")
    scheme = origin.partition(":")[0]
    return origin.removesuffix({"http": ":80", "https": ":443"}.get(scheme, "/"))


Listed = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
"""Several values in one variable, separated by commas."""
Address = Annotated[str, AfterValidator(_address)]
EngineAddress = Annotated[str, AfterValidator(_engine)]
RootPath = Annotated[str, AfterValidator(_path)]
HostName = Annotated[str, AfterValidator(_host_name)]
Source = Annotated[str, AfterValidator(_source)]
Origin = Annotated[str, AfterValidator(_origin)]
