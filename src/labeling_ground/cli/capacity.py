"""``labeling-ground capacity``: from people and seconds to machines, memory and money."""

import math
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from labeling_ground.cli.common import data, json_option, settings_with, show
from labeling_ground.models.catalogue import catalogue
from labeling_ground.simulate.capacity import (
    CLICK_PATIENCE_S,
    PATIENCE_S,
    STORED_EMBEDDINGS,
    Costs,
    DayLoad,
    Team,
    day,
    encoders,
    fewest_decoders,
    fewest_encoders,
    resent,
)

PIXELS_BYTES = 3 * 1024 * 768
"""What an encoder is sent of an image: the longer side resized to 1024."""
MASK_BYTES, LOGITS_BYTES = 6_000, 394_000
"""A mask, and what a click that refines it starts from."""
CLICK_CORE_S, OPEN_CORE_S = 0.010, 0.060
"""Processor time of a proxy for a new click, and for a new image of twelve megapixels."""
BUSY = 0.6
"""Part of their cores that proxies are planned to use in the busiest minute."""
REDIS_OVERHEAD = 1.15
"""What Redis takes for a byte of ours: names, times to live, fragments."""
_GIB = float(1 << 30)
_Row = dict[str, Any]


@click.command()
@click.option("--annotators", type=click.IntRange(1, 2000), multiple=True, default=(200,), show_default=True)
@click.option(
    "--encode-s",
    type=click.FloatRange(0.001, 300),
    multiple=True,
    required=True,
    help="Seconds that one engine takes for an image, as `labeling-ground doctor` measures. Several times.",
)
@click.option(
    "--decode-s",
    type=click.FloatRange(0.001, 10),
    default=0.05,
    show_default=True,
    help="Seconds that one core takes for a click.",
)
@click.option("--model", default="sam-vit-h", show_default=True, help="Whose embeddings: a name of `models list`.")
@click.option("--hours", type=click.FloatRange(1, 24), default=8.0, show_default=True, help="Of a working day.")
@click.option("--prefetch", type=click.IntRange(0, 20), default=2, show_default=True, help="Images sent ahead.")
@click.option(
    "--job-images", type=click.IntRange(0, 1_000_000), default=0, help="Images of a job, queued in the morning."
)
@click.option(
    "--image-mb", type=click.FloatRange(0.01, 500), default=3.0, show_default=True, help="An image file, in MB."
)
@click.option("--decoders", type=click.IntRange(1, 64), default=2, show_default=True, help="Servers that clicks go to.")
@click.option("--price-engine", type=click.FloatRange(0), default=2.0, show_default=True, help="Of an engine's hour.")
@click.option("--price-core", type=click.FloatRange(0), default=0.05, show_default=True, help="Of a core's hour.")
@click.option("--price-memory", type=click.FloatRange(0), default=0.005, show_default=True, help="Of a GiB's hour.")
@json_option
def capacity(
    annotators: tuple[int, ...],
    encode_s: tuple[float, ...],
    decode_s: float,
    model: str,
    hours: float,
    prefetch: int,
    job_images: int,
    image_mb: float,
    decoders: int,
    price_engine: float,
    price_core: float,
    price_memory: float,
    as_json: bool,
) -> None:
    """Work out how many engines a team needs.

    And how long people wait, and what it costs. A day of work is made up (as by `cache synth`), what the cache has is
    taken off, and the rest goes through simulated queues. Half a minute for 200 people.
    """
    settings = settings_with()
    embedding_bytes = catalogue().model(model).embedding_bytes(settings.precision)
    prices = {"engine": price_engine, "core": price_core, "memory": price_memory}
    rows = []
    for people in annotators:
        team = Team(people, hours, prefetch, job_images, settings.idle_s)
        load = day(team)
        for seconds in encode_s:
            costs = Costs(seconds, decode_s, embedding_bytes, int(image_mb * 1e6))
            rows.append(_row(team, costs, load, decoders, prices))
    assumed = _assumptions(hours, prefetch, settings.idle_s, embedding_bytes, image_mb, decoders, prices)
    if as_json:
        data({"assumptions": assumed, "rows": rows})
        return
    Console(width=max(Console().width, 100)).print(_table(rows))
    show()
    for sentence in assumed:
        show(f"- {sentence}")


def _row(team: Team, costs: Costs, load: DayLoad, decoders: int, prices: dict[str, float]) -> _Row:
    encoding = fewest_encoders(load, team, costs)
    lost = encoders(load, team, costs, encoding.engines - 1) if encoding.engines > 1 else None
    decoding = fewest_decoders(load, costs)
    sent = resent(load, costs, decoders)
    embeddings, masks = load.peak_entries
    embedding_bytes = costs.embedding_bytes
    cache = embeddings * (embedding_bytes + costs.image_bytes) + masks * MASK_BYTES
    store = min(costs.stored_embeddings * decoders, embeddings) * 2 * embedding_bytes  # in fp32
    new = load.encodes
    per_s = 1 / (load.seconds * 1e6)
    proxy_core_s = load.clicks * CLICK_CORE_S + (load.opens + new) * OPEN_CORE_S
    peak = encoding.busiest / encoding.utilisation if encoding.utilisation else 1.0
    cores = max(2, math.ceil(proxy_core_s / load.seconds * peak / BUSY))
    redis_gib = cache * REDIS_OVERHEAD / _GIB
    money = {
        "engines": (encoding.engines + 1) * prices["engine"],
        "cores": (cores + decoding.engines) * prices["core"],
        "memory": (redis_gib + store / _GIB) * prices["memory"],
    }
    return {
        "annotators": team.annotators,
        "encode_s": costs.encode_s,
        "images_opened": load.opens,
        "images_encoded": new,
        "clicks": load.clicks,
        "clicks_decoded": len(load.decodes),
        "clicks_a_second": round(load.clicks / load.seconds, 2),
        "engines": encoding.engines,
        "engines_to_survive_a_loss": encoding.engines + 1,
        "engine_utilisation": round(encoding.utilisation, 4),
        "engine_utilisation_busiest_minute": round(encoding.busiest, 4),
        "opens_that_wait": round(encoding.waiting_share, 4),
        "wait_s": {"p50": round(encoding.p50_s, 3), "p99": round(encoding.p99_s, 3), "max": round(encoding.max_s, 3)},
        "wait_p99_s_with_one_engine_less": None if lost is None else round(lost.p99_s, 3),
        "job_hours": round(encoding.job_hours, 2) if team.job_images else None,
        "decoder_cores": decoding.engines,
        "decoder_utilisation": round(decoding.utilisation, 4),
        "click_p99_s": round(decoding.p99_s, 3),
        "clicks_that_send_the_embedding": round(sent / len(load.decodes), 4),
        "proxy_cores": cores,
        "redis_gib": round(redis_gib, 2),
        "decoder_store_gib": round(store / _GIB, 2),
        "megabytes_a_second": {
            "uploads": round(new * costs.image_bytes * per_s, 2),
            "encoders": round(new * (PIXELS_BYTES + 2 * embedding_bytes) * per_s, 2),
            "decoders": round((sent * embedding_bytes + len(load.decodes) * LOGITS_BYTES) * per_s, 2),
            "redis": round((new * (embedding_bytes + costs.image_bytes) + len(load.decodes) * MASK_BYTES) * per_s, 2),
        },
        "money_a_day": {
            "in_working_hours": round(sum(money.values()) * team.hours, 2),
            "all_day": round(sum(money.values()) * 24, 2),
            **{name: round(24 * price, 2) for name, price in money.items()},
        },
    }


def _assumptions(
    hours: float,
    prefetch: int,
    idle_s: float,
    embedding_bytes: int,
    image_mb: float,
    decoders: int,
    prices: dict[str, float],
) -> list[str]:
    return [
        f"The day is made up: {hours:g} hours with a lunch break, a click every 19 seconds, 7 clicks on an image in "
        f"the median, {prefetch} images sent ahead, a tenth opened again, a seventh reviewed hours later. Yours "
        "differs: record a trace (LABELING_GROUND_TRACE_FILE) and compare with `cache trace info`.",
        f"The cache has room for what was used in the last {idle_s:g} s. An embedding takes "
        f"{embedding_bytes / 1e6:.1f} MB, a mask {MASK_BYTES / 1e3:g} kB, an image file {image_mb:g} MB. With less "
        "room more is computed: `cache simulate`.",
        "Engines take one image at a time and the same time for each: people's first, then those sent ahead, then "
        "jobs. Nothing that runs is stopped. Batches on a GPU would need fewer engines for jobs.",
        "Engines are enough when 99 of 100 people who wait have their image in one encode and "
        f"{PATIENCE_S:g} s, decoder cores when 99 of 100 new clicks take one decode and {CLICK_PATIENCE_S:g} s.",
        f"Each image's clicks go to one of {decoders} decoders, which keeps {STORED_EMBEDDINGS} embeddings.",
        f"A proxy takes {1e3 * CLICK_CORE_S:g} ms of a core for a new click (measured: bench/results/serving_sam.md) "
        f"and {1e3 * OPEN_CORE_S:g} ms for a new image (an estimate: it is decoded, resized and sent), and has "
        f"{BUSY:.0%} of its cores busy in the busiest minute.",
        f"Redis takes {REDIS_OVERHEAD:g} bytes for one of ours (an estimate), and holds all that is in use.",
        "Money is for one engine more than needed, to survive the loss of one. An engine's hour is "
        f"{prices['engine']:g}, a core's {prices['core']:g}, a GiB's {prices['memory']:g}. Network and disks are not "
        "in it.",
    ]


_WORDS = {
    "annotators": "people",
    "encode_s": "s an image",
    "images_encoded": "images encoded",
    "clicks_a_second": "clicks a second",
    "engines": "engines needed",
    "engine_utilisation": "busy, mean",
    "engine_utilisation_busiest_minute": "busy, worst minute",
    "opens_that_wait": "opens that wait",
    "wait_s": "wait: p50 / p99 / max, s",
    "wait_p99_s_with_one_engine_less": "p99 with one engine less, s",
    "job_hours": "job done after, h",
    "decoder_cores": "decoder cores",
    "click_p99_s": "new click p99, s",
    "clicks_that_send_the_embedding": "clicks that send the embedding",
    "proxy_cores": "proxy cores",
    "redis_gib": "Redis, GiB",
    "decoder_store_gib": "decoders keep, GiB",
    "megabytes_a_second": "MB/s: " + " / ".join(("uploads", "encoders", "decoders", "Redis")),
    "money_a_day": "money a day: in hours / all day",
}


def _table(rows: list[_Row]) -> Table:
    """A column for each case."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, words in _WORDS.items():
        if any(row[name] is not None for row in rows):
            table.add_row(words, *(_said(name, row[name]) for row in rows))
    return table


def _said(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        shown = list(value.values())[:2] if name == "money_a_day" else value.values()
        return " / ".join(f"{each:.0f}" if name == "money_a_day" else f"{each:.3g}" for each in shown)
    if name.startswith(("engine_util", "opens_", "clicks_that")):
        return f"{value:.1%}"
    return f"{value:g}"
