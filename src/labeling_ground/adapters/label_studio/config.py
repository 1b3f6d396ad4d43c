"""What a project's labeling configuration says: which picture is labeled, and with what masks are drawn."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from labeling_ground.errors import BadInput
from labeling_ground.key import canonical_phrase

_OUTLINES = ("BrushLabels", "Brush", "PolygonLabels", "Polygon")
"""What a mask can be answered as, the best first."""


@dataclass(frozen=True, slots=True)
class Control:
    """What regions are drawn with: a tag of the configuration.

    Attributes:
        tag: such as ``BrushLabels``.
        name: the tag's name, which a region's ``from_name`` repeats.
        to_name: the picture that it is for.
        labels: the labels that it offers; none for a tag without labels.
    """

    tag: str
    name: str
    to_name: str
    labels: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """What a region's ``type`` is called."""
        return self.tag.lower()


@dataclass(frozen=True, slots=True)
class Config:
    """A labeling configuration.

    Attributes:
        images: values of the ``Image`` tags by their names; or their value lists.
        lists: names of those that have a value list: each shows several pictures.
        controls: in their order.
    """

    images: Mapping[str, str]
    lists: frozenset[str]
    controls: tuple[Control, ...]

    def outline_for(self, to_name: str, label: str | None) -> Control:
        """What a mask on that picture is answered as: brush before polygon, and one that has the label before others.

        Raises:
            BadInput: there is nothing that a mask can be drawn with.
        """
        found = self._outlines(to_name)
        if not found:
            raise BadInput(
                f"The labeling configuration has no BrushLabels and no PolygonLabels for {to_name!r}, so there is "
                "nothing to draw a mask with. Add one of them to the project's labeling interface."
            )
        return min(found, key=lambda each: label not in each.labels and bool(each.labels))

    def label_for(self, to_name: str, phrase: str | None) -> str | None:
        """The label of a mask that a phrase found: the one that is the phrase, else the first; ``None`` without any."""
        labels = [label for each in self._outlines(to_name) for label in each.labels]
        same = (label for label in labels if label.strip() and canonical_phrase(label) == phrase)
        return next(same, labels[0] if labels else None)

    def _outlines(self, to_name: str) -> list[Control]:
        found = [each for each in self.controls if each.to_name == to_name and each.tag in _OUTLINES]
        return sorted(found, key=lambda each: _OUTLINES.index(each.tag))

    def address(self, to_name: str | None, data: Mapping[str, Any], index: int = 0) -> str:
        """What a task's data has for a picture.

        Args:
            to_name: the picture's name; ``None``: the first one.
            data: the task's.
            index: which of several pictures, where they have the name together.

        Raises:
            BadInput: there is no such picture, or nothing for it.
        """
        name = next(iter(self.images), None) if to_name is None else to_name
        if name is None or name not in self.images:
            raise BadInput("The labeling configuration has no Image tag of that name with a value.")
        value = self.images[name]
        if name in self.lists:
            return _text_at(data, [*value.removeprefix("$").split("."), index])
        if re.fullmatch(r"\$\w+(\.\w+)+", value):
            return _text_at(data, value[1:].split("."))
        return re.sub(r"\$(\w+)", lambda match: _text_at(data, [match[1]]), value)


def _text_at(data: Any, path: Sequence[str | int]) -> str:
    for name in path:
        if isinstance(name, int):
            data = data[name] if isinstance(data, list) and name < len(data) else None
        else:
            data = data.get(name) if isinstance(data, Mapping) else None
    if not isinstance(data, str):
        raise BadInput(f"The task's data has no address of one image under {'.'.join(map(str, path))!r}.")
    return data


def parse_config(text: str) -> Config:
    """Read a labeling configuration. Entities are not expanded: a document type is refused.

    Raises:
        BadInput: it is no XML, or has a document type.
    """
    elements: list[tuple[str, dict[str, str], int]] = []
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        elements.append((tag, attributes, depth))

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: Any) -> None:
        raise BadInput("The labeling configuration has a document type, which is not read.")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise BadInput(f"The labeling configuration is no XML: {error}.") from None
    images = {given["name"]: given for tag, given, _ in elements if tag == "Image" and "name" in given}
    lists = frozenset(name for name, given in images.items() if given.get("valueList"))
    return Config(
        {
            name: given["valueList" if name in lists else "value"]
            for name, given in images.items()
            if name in lists or "value" in given
        },
        lists,
        tuple(
            Control(tag, given["name"], given["toName"], _labels_below(elements, index))
            for index, (tag, given, _) in enumerate(elements)
            if {"name", "toName"} <= {*given}
        ),
    )


def _labels_below(elements: Sequence[tuple[str, dict[str, str], int]], index: int) -> tuple[str, ...]:
    depth = elements[index][2]
    found = []
    for tag, given, below in elements[index + 1 :]:
        if below <= depth:
            break
        if tag == "Label":
            found.append(given.get("alias") or given.get("value", ""))
    return tuple(found)
