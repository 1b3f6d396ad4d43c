"""The simulation as a page of its own: plots and a table in one HTML file that asks no other host for anything."""

import math
from collections.abc import Callable, Sequence
from html import escape

from labeling_ground.cache.trace.grid import Row
from labeling_ground.cache.trace.replay import Setup
from labeling_ground.types import Kind

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 760, 380, 70, 50, 20, 150
_COLOURS = ("#1f6feb", "#d1495b", "#2a9d8f", "#8d5fd3", "#e07a1f", "#4d4d4d", "#b08900", "#007a9c")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --paper: #fff; --line: #d5dae1; --quiet: #5f6b7a; --mark: #fff5d6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebef; --paper: #14181d; --line: #38414c; --quiet: #9aa6b4; --mark: #3a3218 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
tr.best { background: var(--mark) } tr.today td:first-child::after { content: " (today)"; color: var(--quiet) }
svg { max-width: 100%; height: auto } text { fill: var(--ink); font-size: 12px } .axis { stroke: var(--line) }
.quiet { color: var(--quiet) }
"""


def page(rows: Sequence[Row], best: Row, reason: str, *, today: Setup | None, facts: Sequence[str], title: str) -> str:
    """The page.

    Args:
        rows: all replays.
        best: the one to recommend.
        reason: why, in a sentence.
        today: what the server is set to, if it is among the rows.
        facts: sentences on the trace.
        title: the heading.
    """
    plots = [
        ("What it costs a day", "money a day", lambda row: row.money, False),
        ("Seconds computed, as a share of those without a cache", "share", lambda row: row.ratio, True),
    ]
    drawn = "".join(
        f"<h2>{escape(heading)}</h2>{_plot(rows, best, today, value, label, with_bound)}"
        for heading, label, value, with_bound in plots
    )
    said = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><p><strong>{escape(name_of(best.replayed.setup))}</strong>: {escape(reason)}"
        f"</p><ul class=quiet>{said}</ul>{drawn}<h2>All replays</h2>{_table(rows, best, today)}</body></html>\n"
    )


def name_of(setup: Setup) -> str:
    """A set-up in words."""
    idle = "for ever" if setup.idle_s is None else f"{setup.idle_s / 60:g} min"
    lower = f" + {_bytes(setup.lower_bytes)}" if setup.lower_bytes else ""
    return f"{setup.policy}, {_bytes(setup.memory_bytes)}{lower}, idle {idle}"


def _plot(
    rows: Sequence[Row], best: Row, today: Setup | None, value: Callable[[Row], float], label: str, with_bound: bool
) -> str:
    lines: dict[str, list[tuple[float, float, Row]]] = {}
    idles = {row.replayed.setup.idle_s for row in rows}
    for row in rows:
        setup = row.replayed.setup
        name = setup.policy if len(idles) == 1 else f"{setup.policy}, {(setup.idle_s or 0) / 60:g} min"
        lines.setdefault(name, []).append((_gib(row), value(row), row))
    if with_bound and any(row.bound is not None for row in rows):
        lowest = {(_gib(row), row.bound, row.replayed.setup.idle_s): row for row in rows if row.bound is not None}
        for idle in sorted({key[2] or 0.0 for key in lowest}):
            name = "bound" if len(idles) == 1 else f"bound, {idle / 60:g} min"
            lines[name] = [(x, y, row) for (x, y, at), row in lowest.items() if (at or 0.0) == idle and y is not None]
    xs = [x for points in lines.values() for x, _, _ in points]
    ys = [y for points in lines.values() for _, y, _ in points]
    across = _scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, log=True)
    up = _scale(0.0, max(ys) * 1.08 or 1.0, _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)} against budget">']
    for step in range(6):
        y = max(ys) * 1.08 * step / 5
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    parts += [
        f'<text x="{across(x):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:.3g}</text>'
        for x in sorted(set(xs))
    ]
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">budget, GiB</text>'
    )
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points.sort(key=lambda point: point[0])
        dashed = ' stroke-dasharray="5 4"' if name.startswith("bound") else ""
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        for x, y, row in points:
            is_bound = name.startswith("bound")
            marked = not is_bound and (row is best or row.replayed.setup == today)
            title = escape(f"{name}: {y:.4g} at {x:.3g} GiB")
            parts.append(
                f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="{6 if marked else 3}" fill="{colour}">'
                f"<title>{title}</title></circle>"
            )
            if marked:
                word = "recommended" if row is best else "today"
                parts.append(f'<text x="{across(x):.1f}" y="{up(y) - 10:.1f}" text-anchor="middle">{word}</text>')
        place = f'x="{_WIDTH - _RIGHT + 12}" y="{_TOP + 14 + 18 * number}"'
        parts.append(f'<text {place} style="fill:{colour}">{escape(name)}</text>')
    return "".join(parts) + "</svg>"


def _table(rows: Sequence[Row], best: Row, today: Setup | None) -> str:
    head = (
        "set-up", "share computed", "bound", "embedding hits", "mask hits", "hours computed", "peak GiB",
        "evicted: budget / idle", "money a day",
    )  # fmt: skip
    body = []
    for row in rows:
        replayed = row.replayed
        gone = {reason: sum(tier[reason] for tier in replayed.evictions.values()) for reason in ("budget", "idle")}
        cells = (
            name_of(replayed.setup),
            f"{row.ratio:.4f}",
            "" if row.bound is None else f"{row.bound:.4f}",
            f"{hit_ratio(row, Kind.EMBEDDING):.3f}",
            f"{hit_ratio(row, Kind.MASK):.3f}",
            f"{replayed.seconds_computed / 3600:.2f}",
            f"{sum(replayed.peak_bytes.values()) / (1 << 30):.2f}",
            f"{gone['budget']} / {gone['idle']}",
            f"{row.money:.2f}",
        )
        kinds = [word for word, is_it in (("best", row is best), ("today", replayed.setup == today)) if is_it]
        body.append(f'<tr class="{" ".join(kinds)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def hit_ratio(row: Row, kind: Kind) -> float:
    """Hits by look-ups of one kind; 0 where nothing was looked up."""
    return row.replayed.hits[kind] / (row.replayed.lookups[kind] or 1)


def _gib(row: Row) -> float:
    setup = row.replayed.setup
    bound_by = min(setup.memory_bytes, max(row.replayed.peak_bytes["memory"], 1))
    return ((bound_by if setup.memory_bytes > 1 << 50 else setup.memory_bytes) + setup.lower_bytes) / (1 << 30)


def _bytes(count: int) -> str:
    if count > 1 << 50:
        return "no budget"
    return f"{count / (1 << 30):.3g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.3g} MiB"


def _scale(low: float, high: float, start: float, end: float, *, log: bool = False) -> Callable[[float], float]:
    if log and low > 0:
        first, last = math.log(low), math.log(high)
        return lambda value: start + (end - start) * ((math.log(value) - first) / ((last - first) or 1.0))
    return lambda value: start + (end - start) * ((value - low) / ((high - low) or 1.0))
