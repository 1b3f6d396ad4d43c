"""Three engines, two proxies and Redis; parts are killed and restarted, and every mask is compared."""

import asyncio
import signal
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cluster.day import BROKEN, REFUSED, Answer, Player, asks_of_a_day
from bench.cluster.parts import Cluster, Part, cluster
from bench.serving.run import where


@dataclass(frozen=True)
class Plan:
    """How much is played.

    Attributes:
        annotators: people.
        asks: of their day.
        seconds: that these take, in each of the two plays.
        blows: what is done to which part at which share of the time.
        away_s: seconds from an end to the start of the same part again.
    """

    annotators: int
    asks: int
    seconds: float
    blows: Sequence[tuple[float, str, str]]
    away_s: float = 2.0


_AGAIN = {REFUSED: "no connection", BROKEN: "broken off", 503: "503", 404: "404"}
"""Why an ask was sent again."""
KILL, TERM = "kill -9", "SIGTERM"
FULL = Plan(
    annotators=20,
    asks=700,
    seconds=55.0,
    blows=(
        (0.08, KILL, "engine 1"),
        (0.24, TERM, "engine 2"),
        (0.40, KILL, "proxy 1"),
        (0.56, TERM, "proxy 2"),
        (0.72, KILL, "Redis"),
        (0.88, KILL, "engine 3"),
    ),
)
TOY = Plan(annotators=6, asks=120, seconds=6.0, blows=((0.2, KILL, "engine 1"), (0.5, KILL, "proxy 1")), away_s=1.0)


def run(plan: Plan) -> dict[str, Any]:
    """The figures of the undisturbed play and of the disturbed one."""
    asks = asks_of_a_day(plan.annotators, plan.seconds, plan.asks)
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder), 3, 2) as parts:
        player = Player([part.port for part in parts.proxies])
        began = time.monotonic()
        asyncio.run(player.play(asks, began))
        calm, player.answers = player.answers, []
        _forget(parts, Path(folder))
        done = asyncio.run(_disturbed(plan, player, asks, parts))
        disturbed = player.answers
        masks = len(player.truth)
    return {
        **where(),
        "people": plan.annotators,
        "asks": len(asks),
        "seconds": plan.seconds,
        "masks_compared": masks,
        "undisturbed": _figures(calm),
        "disturbed": _figures(disturbed),
        "blows": [
            {"what": f"{how} {part.name}", "at_s": round(at, 1), "back_after_s": round(back - at, 1)}
            | _figures([answer for answer in disturbed if at - 0.5 <= answer.at < back])
            for at, back, how, part in done
        ],
    }


def _forget(parts: Cluster, folder: Path) -> None:
    """Empty the cache and what the decoders keep: the second play begins with nothing, as the first one did."""
    asked = urllib.request.Request(f"http://127.0.0.1:{parts.proxies[0].port}/v1/cache", method="DELETE")
    with urllib.request.urlopen(asked, timeout=60):
        pass
    for file in folder.glob("kept-*/*"):
        file.unlink(missing_ok=True)


async def _disturbed(
    plan: Plan, player: Player, asks: Sequence[Any], parts: Cluster
) -> list[tuple[float, float, str, Part]]:
    """Play while parts end and come back: when each ended, when it was back, how, and which."""
    by_name = {part.name: part for part in (*parts.engines, *parts.proxies, parts.redis)}
    began = time.monotonic()
    done: list[tuple[float, float, str, Part]] = []

    async def strike(share: float, how: str, name: str) -> None:
        part = by_name[name]
        await asyncio.sleep(max(0.0, began + share * plan.seconds - time.monotonic()))
        is_proxy = part in parts.proxies
        if how == TERM and is_proxy:  # a service forgets what is told to end, at about the same time
            player.ports.remove(part.port)
        at = time.monotonic() - began
        await asyncio.to_thread(part.stop, signal.SIGKILL if how == KILL else signal.SIGTERM)
        await asyncio.sleep(plan.away_s)
        part.start()
        await asyncio.to_thread(part.wait)
        if is_proxy and part.port not in player.ports:
            player.ports.append(part.port)
        done.append((at, time.monotonic() - began, how, part))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(player.play(asks, began))
        for blow in plan.blows:
            tasks.create_task(strike(*blow))
    return sorted(done, key=lambda one: one[0])


def _figures(answers: Sequence[Answer]) -> dict[str, Any]:
    tries = Counter(status for answer in answers for status in answer.before)
    waited = sorted(answer.seconds for answer in answers if answer.is_click) or [0.0]
    return {
        "answered": sum(answer.status in (200, 202) for answer in answers),
        "failed": sum(answer.status not in (200, 202) for answer in answers),
        "wrong_masks": sum(answer.is_wrong for answer in answers),
        "sent_again": {name: tries[status] for status, name in _AGAIN.items()},
        "outcomes": dict(sorted(Counter(answer.outcome for answer in answers if answer.is_click).items())),
        "click_p50_ms": round(1e3 * waited[len(waited) // 2], 1),
        "click_p99_ms": round(1e3 * waited[int(len(waited) * 0.99)], 1),
        "click_max_ms": round(1e3 * waited[-1], 1),
    }


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [
        f"{result['date']}, commit {result['commit']}, {result['machine']}.",
        "",
        f"{result['asks']} asks of {result['people']} people's synthetic day within {result['seconds']:.0f} s: first "
        "undisturbed, then from an empty cache while parts end and come back. Three engine processes (both halves "
        "each; a toy computes, the command is the real one), two proxies, Redis. Each of "
        f"{result['masks_compared']} masks is compared with the first play's. The player takes the proxies in turn "
        "like an ingress. What got no connection it sends to the next proxy, as an ingress does by itself; what broke "
        "off, or was answered 503, it sends again; to 404 it sends the image. After 100 s an ask has failed. Clicks: "
        "p50, p99, longest.",
        "",
        f"| play | answered | failed | wrong masks | again: {' / '.join(_AGAIN.values())} | clicks, ms |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    rows = [("undisturbed", result["undisturbed"]), ("disturbed, all of it", result["disturbed"])]
    rows += [
        (f"{blow['what']} at {blow['at_s']} s, until it is back after {blow['back_after_s']} s", blow)
        for blow in result["blows"]
    ]
    for name, row in rows:
        again = " / ".join(map(str, row["sent_again"].values()))
        clicks = " / ".join(str(row[f"click_{part}_ms"]) for part in ("p50", "p99", "max"))
        lines.append(
            f"| {name} | {row['answered']} | {row['failed']} | {row['wrong_masks']} | {again} | {clicks} |",
        )
    return "\n".join(lines)
