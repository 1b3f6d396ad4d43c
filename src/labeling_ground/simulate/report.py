"""The simulation as a page of its own: plots and a table in one HTML file that asks no other host for anything."""

import math
from collections.abc import Callable, Sequence
from html import escape

from labeling_ground.simulate.grid import Row
from labeling_ground.simulate.replay import Setup
from labeling_ground.types import Kind

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 760, 380, 70, 50, 20, 150
_COLOURS = ("#3b82f6", "#d1495b", "#2a9d8f", "#9a6ce0", "#e07a1f", "#7d8794", "#b08900", "#0e8fb3")
"""Each is legible on white and on black."""
_TICK_PX = 44
"""So far apart the numbers along the budget must be."""

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
svg { max-width: 100%; height: auto } text { font-size: 12px } text:not(.key) { fill: var(--ink) }
.axis { stroke: var(--line) } .ring { fill: none; stroke: var(--ink); stroke-width: 1.5 }
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
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        """content="default-src 'none'; style-src 'unsafe-inline'"><meta name="viewport" """
        f'content="width=device-width, initial-scale=1"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><p><strong>{escape(name_of(best.replayed.setup))}</strong>: {escape(reason)}"
        f'</p><ul class="quiet">{said}</ul>{drawn}<h2>All replays</h2>{_table(rows, best, today)}</body></html>\n'
    )


def name_of(setup: Setup) -> str:
    """A set-up in words."""
    policy, memory, idle = state_of(setup)
    lower = f" + {_bytes(setup.lower_bytes)}" if setup.lower_bytes else ""
    return f"{policy}, {memory}{lower}, idle {idle}"


def state_of(setup: Setup) -> tuple[str, str, str]:
    """Policy, memory and idle time of a set-up, each in words."""
    return _policy(setup), _bytes(setup.memory_bytes), _idle(setup.idle_s)


def _policy(setup: Setup) -> str:
    counted = f" {setup.frequency_exponent:g}" if setup.frequency_exponent else ""
    return f"{setup.policy}{counted}{' int8' if setup.int8 else ''}"


def _idle(idle_s: float | None) -> str:
    return "for ever" if idle_s is None else f"{idle_s / 60:g} min"


def _plot(
    rows: Sequence[Row], best: Row, today: Setup | None, value: Callable[[Row], float], label: str, with_bound: bool
) -> str:
    lines = _lines(rows, value)
    if with_bound:
        lines |= _bounds(rows)
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points if y > 0]
    ticks = _ticks(min(ys, default=1.0), max(ys, default=1.0))
    across = _log_scale(xs[0], xs[-1], _LEFT, _WIDTH - _RIGHT)
    up = _log_scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)} against budget">']
    for y in ticks:
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    last = -math.inf
    for x in xs:
        if across(x) - last >= _TICK_PX:
            last = across(x)
            parts.append(f'<text x="{last:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:.3g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">budget, GiB</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dashed = ' stroke-dasharray="5 4"' if name.startswith("bound") else ""
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        for x, y in points:
            title = escape(f"{name}: {y:.4g} at {x:.3g} GiB")
            parts.append(
                f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"><title>{title}</title></circle>'
            )
        place = f'x="{_WIDTH - _RIGHT + 12}" y="{_TOP + 14 + 18 * number}"'
        parts.append(f'<text class="key" {place} fill="{colour}">{escape(name)}</text>')
    now = next((row for row in rows if row.replayed.setup == today), None)
    for row, word in ((best, "recommended, today" if best is now else "recommended"), (now, "today")):
        if row is not None and not (row is best and word == "today"):
            x, y = across(_gib(row)), up(value(row))
            anchor = "start" if x < middle else "end"
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')
            below = y + 24 if y < _HEIGHT - _BOTTOM - 30 else y - 14
            parts.append(f'<text x="{x:.1f}" y="{below:.1f}" text-anchor="{anchor}">{word}</text>')
    return "".join(parts) + "</svg>"


_Line = list[tuple[float, float]]


def _lines(rows: Sequence[Row], value: Callable[[Row], float]) -> dict[str, _Line]:
    """One line a policy, and where several idle times were tried, one for each of them; points by budget."""
    several = len({row.replayed.setup.idle_s for row in rows}) > 1
    lines: dict[str, _Line] = {}
    for row in rows:
        setup = row.replayed.setup
        name = f"{_policy(setup)}, {_idle(setup.idle_s)}" if several else _policy(setup)
        lines.setdefault(name, []).append((_gib(row), value(row)))
    return {name: sorted(points) for name, points in lines.items()}


def _bounds(rows: Sequence[Row]) -> dict[str, _Line]:
    several = len({row.replayed.setup.idle_s for row in rows}) > 1
    lines: dict[str, set[tuple[float, float]]] = {}
    for row in rows:
        if row.bound is not None:
            name = f"bound, {_idle(row.replayed.setup.idle_s)}" if several else "bound"
            lines.setdefault(name, set()).add((_gib(row), row.bound))
    return {name: sorted(points) for name, points in lines.items()}


def _table(rows: Sequence[Row], best: Row, today: Setup | None) -> str:
    head = (
        "set-up", "share computed", "bound", "image hits", "mask hits", "hours computed", "peak GiB",
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
            f"{hit_ratio(row, IMAGES):.3f}",
            f"{hit_ratio(row, MASKS):.3f}",
            f"{replayed.seconds_computed / 3600:.2f}",
            f"{sum(replayed.peak_bytes.values()) / (1 << 30):.2f}",
            f"{gone['budget']} / {gone['idle']}",
            f"{row.money:.2f}",
        )
        kinds = [word for word, is_it in (("best", row is best), ("today", replayed.setup == today)) if is_it]
        body.append(f'<tr class="{" ".join(kinds)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


IMAGES = (Kind.EMBEDDING, Kind.TRUNK)
MASKS = (Kind.MASK, Kind.DETECTIONS)


def hit_ratio(row: Row, kinds: Sequence[Kind]) -> float:
    """Hits by look-ups of these kinds; 0 where nothing was looked up."""
    hits, lookups = row.replayed.hits, row.replayed.lookups
    return sum(hits[kind] for kind in kinds) / (sum(lookups[kind] for kind in kinds) or 1)


def _gib(row: Row) -> float:
    setup = row.replayed.setup
    bound_by = min(setup.memory_bytes, max(row.replayed.peak_bytes["memory"], 1))
    return ((bound_by if setup.memory_bytes > 1 << 50 else setup.memory_bytes) + setup.lower_bytes) / (1 << 30)


def _bytes(count: int) -> str:
    if count > 1 << 50:
        return "no budget"
    value, unit = (count / (1 << 30), "GiB") if count >= 1 << 30 else (count / (1 << 20), "MiB")
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten: the first not above ``low``, the last not below ``high``."""
    steps = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        for step in (1, 2, 5)
    ]
    first = max(number for number, step in enumerate(steps) if step <= low)
    last = min(number for number, step in enumerate(steps) if step >= high and number > first)
    return [float(f"{step:.3g}") for step in steps[first : last + 1]]


def _log_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From a number to its place; what is not above 0 is put at the low end."""
    first, last = math.log(max(low, 1e-12)), math.log(max(high, 1e-12))

    def place(value: float) -> float:
        if value <= 0 or first == last:
            return start
        return start + (end - start) * (math.log(value) - first) / (last - first)

    return place
