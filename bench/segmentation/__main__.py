"""``python -m bench.segmentation``: a table for the photos used for tuning and one for the others.

``--json`` prints everything as JSON, ``--verbose`` adds a line for each thing, ``--toy`` takes two things and a few
seconds, ``--only tune`` or ``--only report`` does one side.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import cv2
import numpy as np

from bench.segmentation.judge import Marks, judge
from bench.segmentation.photos import REPORT, TUNE, load

_COLUMNS = (
    ("one_top", "1 click, top"),
    ("one_best", "1 click, best of 3"),
    ("three", "3 clicks"),
    ("five", "5 clicks"),
    ("five_kept", "5 clicks, mask sent back"),
    ("box", "box"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables; the exit code is 0."""
    parser = argparse.ArgumentParser("bench.segmentation", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--toy", action="store_true", help="two things only, for the test suite")
    parser.add_argument("--verbose", action="store_true", help="a line for each thing")
    parser.add_argument("--only", choices=("tune", "report"), help="one side of the split")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    sides = {"tune": TUNE, "report": REPORT}
    if options.only:
        sides = {options.only: sides[options.only]}
    if options.toy:
        sides = {"toy": ("coins",)}
    results = {}
    for side, names in sides.items():
        marks: list[Marks] = []
        encode_ms: list[float] = []
        for name in names:
            photo = load(name)
            found, times = judge(photo, photo.things[:2] if options.toy else None)
            marks += found
            encode_ms += times
        results[side] = _summary(marks, encode_ms)
        if options.json:
            results[side]["things_detail"] = [mark.as_dict() for mark in marks]
        else:
            print(_table(side, results[side], marks if options.verbose else ()))
    if options.json:
        json.dump(results, sys.stdout, indent=1)
        print()
    return 0


def _summary(marks: Sequence[Marks], encode_ms: Sequence[float]) -> dict[str, object]:
    decode = [ms for mark in marks for ms in mark.decode_ms]
    means: dict[str, object] = {key: round(float(np.mean([getattr(m, key) for m in marks])), 4) for key, _ in _COLUMNS}
    return means | {
        "things": len(marks),
        "boxes_over_0.7": round(float(np.mean([m.box > 0.7 for m in marks])), 4),
        "clicks_obeyed": round(float(np.mean([m.obeyed for m in marks])), 4),
        "encode_ms": [round(float(np.percentile(encode_ms, q)), 1) for q in (50, 95)],
        "decode_ms": [round(float(np.percentile(decode, q)), 1) for q in (50, 95)],
    }


def _table(side: str, summary: dict[str, object], marks: Sequence[Marks]) -> str:
    lines = [f"{side}: {summary['things']} things, mean IoU"]
    lines += [f"  {title:<26}{summary[key]:.3f}" for key, title in _COLUMNS]
    lines.append(f"  {'boxes with IoU > 0.7':<26}{summary['boxes_over_0.7']:.0%}")
    lines.append(f"  {'clicks obeyed':<26}{summary['clicks_obeyed']:.1%}")
    for key in ("encode_ms", "decode_ms"):
        lines.append(f"  {key.replace('_', ', '):<26}p50 and p95: {summary[key]}")
    for mark in marks:
        figures = "  ".join(f"{getattr(mark, key):.2f}" for key, _ in _COLUMNS)
        lines.append(f"    {mark.photo:<11}{mark.thing[:28]:<29}{mark.share:6.1%}  {figures}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
