"""``labeling-ground cache trace info``, ``cache synth`` and ``cache simulate``: decide on a policy by evidence."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from pydantic import ByteSize, TypeAdapter
from rich.console import Console
from rich.table import Table

from labeling_ground.cli.common import data, json_option, megabytes, progress_of, say, settings_with, show
from labeling_ground.errors import BadSettings
from labeling_ground.settings import Settings
from labeling_ground.settings.types import whole_size
from labeling_ground.simulate.grid import Prices, Row, cheapest, peak_without_budget, read_trace, replay_all
from labeling_ground.simulate.policies import POLICIES, choose
from labeling_ground.simulate.prepared import Prepared, prepare
from labeling_ground.simulate.replay import UNBOUNDED, Setup
from labeling_ground.simulate.report import IMAGES, MASKS, hit_ratio, name_of, page, state_of
from labeling_ground.simulate.synth import MIXES, Work, synthesise
from labeling_ground.trace.events import KINDS, OUTCOMES, What
from labeling_ground.trace.files import read, write
from labeling_ground.types import Kind

_TRACES = click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
_PRICES = Prices()
_SIZE = TypeAdapter(ByteSize)


@click.group()
def trace() -> None:
    """Look at recorded accesses.

    Set LABELING_GROUND_TRACE_FILE, and a server records them.
    """


@trace.command()
@_TRACES
@json_option
def info(traces: tuple[Path, ...], as_json: bool) -> None:
    """What is in a trace (and in its older files: FILE.1 and so on)."""
    settings_with()  # this command reads none, but a misspelled one is said by every command
    events = read(traces)
    asks = (events["what"] == What.ASKED) | (events["what"] == What.PREFETCHED)
    kinds: dict[str, dict[str, Any]] = {}
    for number, kind in enumerate(KINDS):
        chosen = events[asks & (events["kind"] == number)]
        if kind is None or not len(chosen):
            continue
        outcomes = Counter(OUTCOMES[value] for value in chosen["outcome"].tolist())
        kinds[kind.value] = {
            "asks": len(chosen),
            "keys": len(set(chosen["key"].tolist())),
            "outcomes": {outcome.value: count for outcome, count in outcomes.items() if outcome is not None},
        }
    found: dict[str, Any] = {
        "events": len(events),
        "from": _moment(events["time"].min()) if len(events) else None,
        "to": _moment(events["time"].max()) if len(events) else None,
        "images": len(set(events["image"].tolist()) - {0}),
        "namespaces": len(set(events["tenant"].tolist())),
        "done_hints": int((events["what"] == What.DONE).sum()),
        "trunks_computed": int((events["what"] == What.COMPUTED).sum()),
        "purges": int((events["what"] == What.PURGED).sum()),
        "kinds": kinds,
        "seconds_without_cache": round(sum(prepare(events).without_cache.values()), 3),
    }
    if as_json:
        data(found)
        return
    show(f"{found['events']} events from {found['from']} to {found['to']}, {found['images']} images")
    for name, part in kinds.items():
        outcomes_said = ", ".join(f"{count} {word}" for word, count in part["outcomes"].items())
        show(f"  {name:10} {part['asks']:8} asks for {part['keys']:8} keys: {outcomes_said}")
    if found["trunks_computed"]:
        show(f"  {Kind.TRUNK.value:10} {found['trunks_computed']:8} computed, which nobody asks for by itself")
    show(f"Without a cache these would be {found['seconds_without_cache'] / 3600:.2f} hours of computing.")


@click.command()
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same trace.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option("--mix", type=click.Choice(list(MIXES)), default="mixed", show_default=True, help="Models in use.")
@click.option("--annotators", type=click.IntRange(1, 10_000), default=120, show_default=True)
@click.option("--hours", type=click.FloatRange(0.1, 24), default=8.0, show_default=True, help="Of a working day.")
@click.option("--days", type=click.IntRange(1, 60), default=1, show_default=True)
@click.option("--bulk", type=click.IntRange(0), default=0, help="New images that a script sends within an hour.")
@click.option("--swap", is_flag=True, help="The models change at noon.")
def synth(seed: int, out: Path, mix: str, annotators: int, hours: float, days: int, bulk: int, swap: bool) -> None:
    """Make up a trace of labeling work.

    For deciding before there is a recording.
    """
    settings_with()
    work = Work(mix=mix, annotators=annotators, hours=hours, days=days, bulk=bulk, swap=swap)
    events = synthesise(seed, work)
    write(out, events)
    say(f"{len(events)} events written to {out}.")


@click.command()
@_TRACES
@click.option("--policy", "policies", multiple=True, help=f"{', '.join(POLICIES)} or module:attribute. Several times.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    help="Memory: bytes (2GiB), or a share (25%) of what idle time alone would need. Several times.",
)
@click.option("--idle", "idles", multiple=True, help="Idle time: seconds, or 30min, 2h, never. Several times.")
@click.option(
    "--frequency-exponent",
    type=click.FloatRange(0, 4),
    default=1.0,
    show_default=True,
    help="How much uses count under gdsf, in what is tried beside today's setting.",
)
@click.option("--lower-budget", default="0", help="A tier behind the memory, disk or Redis: bytes (20GiB).")
@click.option("--price-memory", type=float, default=_PRICES.memory, show_default=True, help="Of a GiB for an hour.")
@click.option("--price-lower", type=float, default=_PRICES.lower, show_default=True, help="Of a GiB for an hour.")
@click.option(
    "--price",
    "--price-encoder",
    "price_encoder",
    type=float,
    default=_PRICES.encoder,
    show_default=True,
    help="Of an hour of computing.",
)
@click.option(
    "--int8/--no-int8",
    default=None,
    help="With embeddings of all models kept in int8 before they go, without a tier behind memory; as set today.",
)
@click.option("--bound/--no-bound", default=True, help="Work out what no policy can beat.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots.")
@click.option("--jobs", type=click.IntRange(1), help="Processes; as many as there are cores by default.")
@json_option
def simulate(
    traces: tuple[Path, ...],
    policies: tuple[str, ...],
    budgets: tuple[str, ...],
    idles: tuple[str, ...],
    frequency_exponent: float,
    lower_budget: str,
    price_memory: float,
    price_lower: float,
    price_encoder: float,
    int8: bool | None,
    bound: bool,
    html: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Replay traces with other settings, and name the cheapest.

    All combinations of policies, budgets and idle times are tried. The replay is done by the code that serves. Without
    options: the shipped policies, 10, 25, 50 and 100 % of the memory that idle time alone would need, and today's
    setting.
    """
    settings = settings_with()
    if html is not None:
        _check_writable(html)
    prepared = read_trace(traces)
    prices = Prices(price_memory, price_lower, price_encoder)
    idle_times = [_seconds(text) for text in idles] or [settings.idle_s]
    needed = peak_without_budget(prepared, idle_times[0])
    lower = _size(lower_budget, needed)
    for policy in policies:
        choose(policy)  # a wrong name is said before minutes of work
    sizes = [_size(budget, needed) for budget in budgets or ("10%", "25%", "50%", "100%")]
    wanted = itertools.product(policies or tuple(POLICIES), sizes, idle_times)
    setups, today = _setups(settings, wanted, lower, frequency_exponent, int8)
    with progress_of("replaying", len(setups)) as advance:
        rows = replay_all(traces, setups, prices, bounds=bound, jobs=jobs, on_row=advance)
    best = cheapest(rows)
    now = next(row for row in rows if row.replayed.setup == today)
    reason = _reason(best, now, rows)
    facts = _facts(prepared, needed, prices)
    if html is not None:
        html.write_text(page(rows, best, reason, today=today, facts=facts, title="What the cache costs and saves"))
        say(f"The page is in {html}.")
    if as_json:
        found = {"recommended": {**_described(best), "reason": reason}, "today": _described(now)}
        data({"facts": facts, **found, "rows": [_described(row) for row in rows]})
        return
    for fact in facts:
        show(fact)
    show()
    Console().print(_table(rows, best, now))
    show()
    show(f"Recommended: {name_of(best.replayed.setup)}. {reason}")


def _setups(
    settings: Settings,
    wanted: Iterable[tuple[str, int, float | None]],
    lower_bytes: int,
    exponent: float,
    int8: bool | None,
) -> tuple[list[Setup], Setup]:
    """The setups to try: what is wanted (policy, bytes of memory, idle time), and today's, which is returned too."""
    watermarks = settings.memory_low_watermark, settings.memory_high_watermark
    is_int8 = settings.int8_embeddings != "off" and not lower_bytes

    def setup(policy: str, memory_bytes: int, idle_s: float | None, exponent: float, rounded: bool) -> Setup:
        counted = 0.0 if policy in POLICIES and policy != "gdsf" else exponent
        fixed = (lower_bytes, idle_s, settings.max_age_s, settings.done_weight, counted, watermarks)
        return Setup(policy, memory_bytes, *fixed, int8=rounded)

    rounded = is_int8 if int8 is None else int8 and not lower_bytes
    tried = [setup(*each, exponent, rounded) for each in wanted]
    today = setup(settings.policy, int(settings.memory_bytes), settings.idle_s, settings.frequency_exponent, is_int8)
    return list(dict.fromkeys([*tried, today])), today


def _facts(prepared: Prepared, needed: int, prices: Prices) -> list[str]:
    return [
        f"{prepared.asks} asks over {prepared.seconds / 3600:.1f} hours; without a cache "
        f"{sum(prepared.without_cache.values()) / 3600:.1f} hours of computing.",
        f"Idle time alone, without a budget, would need {megabytes(needed)} of memory.",
        f"Prices: {prices.memory:g} for a GiB of memory and {prices.lower:g} for a GiB behind it for an hour, "
        f"{prices.encoder:g} for an hour of computing. Days that the trace has begun count whole.",
    ]


def _check_writable(file: Path) -> None:
    """See, before minutes of work, that a file can be written.

    Raises:
        BadSettings: it cannot.
    """
    try:
        file.open("a").close()
    except OSError as error:
        raise BadSettings(f"The page {file} cannot be written: {error.strerror}.") from None


def _reason(best: Row, now: Row, rows: list[Row]) -> str:
    said = (
        f"{best.money:.2f} a day, {best.room:.2f} for room and {best.computing:.2f} for computing: the least of all "
        "that were tried (of those within half a per cent, the smallest)."
    )
    if best is now:
        said += " It is today's setting."
    else:
        said += f" Today's setting, {name_of(now.replayed.setup)}, costs {now.money:.2f}."
    budgets = {row.replayed.setup.memory_bytes for row in rows}
    if len(budgets) > 1 and best.replayed.setup.memory_bytes in (min(budgets), max(budgets)):
        smaller = best.replayed.setup.memory_bytes == min(budgets)
        said += f" No {'smaller' if smaller else 'larger'} budget was tried; one might be cheaper still: see --budget."
    return said


def _table(rows: list[Row], best: Row, now: Row) -> Table:
    """The rows, in 80 columns. What all have in common, the tier behind memory, is in the heading."""
    lower = {row.replayed.setup.lower_bytes for row in rows} - {0}
    title = f"with {', '.join(map(megabytes, sorted(lower)))} behind the memory" if lower else None
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("policy", overflow="fold")
    for heading in ("memory", "idle", "computed", "bound", "images\nhit", "masks\nhit", "evicted", "a day"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        policy, memory, idle = state_of(row.replayed.setup)
        evicted = sum(tier["budget"] for tier in row.replayed.evictions.values())
        table.add_row(
            policy.rpartition(":")[2],
            memory,
            idle,
            f"{row.ratio:.4f}",
            "" if row.bound is None else f"{row.bound:.4f}",
            f"{hit_ratio(row, IMAGES):.1%}",
            f"{hit_ratio(row, MASKS):.1%}",
            _short(evicted),
            f"{row.money:.2f}",
            "best" if row is best else "today" if row is now else "",
            style="bold" if row is best else None,
        )
    return table


def _short(count: int) -> str:
    """A count in at most five characters."""
    for unit in ("", "k", "M", "G"):
        if count < 10_000:
            return f"{count}{unit}"
        count //= 1000
    return "many"


def _described(row: Row) -> dict[str, Any]:
    replayed, setup = row.replayed, row.replayed.setup
    return {
        "policy": setup.policy,
        "frequency_exponent": setup.frequency_exponent,
        "memory_bytes": None if setup.memory_bytes >= UNBOUNDED else setup.memory_bytes,
        "lower_bytes": setup.lower_bytes,
        "int8": setup.int8,
        "idle_seconds": setup.idle_s,
        "ratio": row.ratio,
        "bound": row.bound,
        "seconds_computed": {kind.value: seconds for kind, seconds in replayed.seconds.items()},
        "lookups": {kind.value: count for kind, count in replayed.lookups.items()},
        "hits": {kind.value: count for kind, count in replayed.hits.items()},
        "peak_bytes": replayed.peak_bytes,
        "evictions": {tier: dict(reasons) for tier, reasons in replayed.evictions.items()},
        "money_a_day": {"room": row.room, "computing": row.computing, "total": row.money},
    }


def _moment(time: float) -> str:
    return datetime.fromtimestamp(float(time), UTC).isoformat(timespec="seconds")


def _size(text: str, needed: int) -> int:
    """Bytes, from a size as the settings take it (``2GiB``, ``500MB``), or from a share of what is needed (``25%``)."""
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if share:
        return int(needed * float(share[1]) / 100)
    try:
        return _SIZE.validate_python(whole_size(text.strip()))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a size, such as 2GiB, nor a share, such as 25%") from None


def _seconds(text: str) -> float | None:
    """Seconds, from ``1800``, ``30min``, ``2h`` or ``never``."""
    if text.strip() == "never":
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)?\s*", text)
    if not found or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no idle time: seconds, 30min, 2h or never")
    return float(found[1]) * {"s": 1.0, None: 1.0, "min": 60.0, "h": 3600.0}[found[2]]
