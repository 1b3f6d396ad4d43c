"""Reads exports of the labeling page with the programs that they are for; run by their own Python.

Arguments: the name of a reader, the folder of an unpacked export, and a file to write to: NumPy arrays by
``image name/number label``, each object's mask, or its box.
"""

import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

os.environ["QT_QPA_PLATFORM"] = "offscreen"


def labelme(folder):
    """With LabelMe's own file reader and rasterizer; pieces of one group are one object."""
    from labelme import utils
    from labelme._label_file import read_label_file

    found = {}
    for file in sorted(folder.rglob("*.json")):
        read = read_label_file(str(file))
        size = read.image_data and utils.img_data_to_arr(read.image_data).shape[:2]
        names = {one["label"]: 1 for one in read.shapes}
        _, instances = utils.shapes_to_label(size, read.shapes, names)
        labels = list(dict.fromkeys((one["label"], one["group_id"] or n + 1000) for n, one in enumerate(read.shapes)))
        for n, (label, _) in enumerate(labels):
            found[f"{read.image_path}/{n} {label}"] = instances == n + 1
    return found


def voc(folder):
    """With supervision: boxes."""
    import supervision

    data = supervision.DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
    found = {}
    for path, _, one in data:
        for n, (box, number) in enumerate(zip(one.xyxy, one.class_id, strict=True)):
            found[f"{Path(path).name}/{n} {data.classes[number]}"] = box
    return found


def yolo(folder):
    """With supervision: boxes of a flat data set."""
    import supervision

    data = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml")
    )
    found = {}
    for path, _, one in data:
        for n, (box, number) in enumerate(zip(one.xyxy, one.class_id, strict=True)):
            found[f"{Path(path).name}/{n} {data.classes[number]}"] = box
    return found


def cvat(folder):
    """With the XML that CVAT describes, and its own decoder of masks."""
    from cvat_sdk.masks import decode_mask

    found = {}
    for image in ET.parse(folder / "annotations.xml").getroot().iter("image"):
        width, height = int(image.get("width")), int(image.get("height"))
        for n, mask in enumerate(image.iter("mask")):
            left, top = int(mask.get("left")), int(mask.get("top"))
            far = [left + int(mask.get("width")) - 1, top + int(mask.get("height")) - 1]
            points = [int(run) for run in mask.get("rle").split(",")] + [left, top, *far]
            pixels = decode_mask(points, image_width=width, image_height=height)
            found[f"{image.get('name')}/{n} {mask.get('label')}"] = pixels
    return found


if __name__ == "__main__":
    _, reader, source, target = sys.argv
    np.savez(target, **globals()[reader](Path(source)))
