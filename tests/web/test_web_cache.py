"""The operator's page in a real browser: what it shows, what it changes, and whom it asks first."""

import contextlib
import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.web.conftest import PATIENCE_S, Served, profile
from tests.web.labeler import arrive, go, reload

ADMIN = "the operator's own"
MIB = 1 << 20
COUNT_FLIGHTS = """
    window.flights = {seen: 0, now: 0, most: 0};
    const plain = window.fetch;
    window.fetch = async (...asked) => {
        window.flights.seen += 1;
        window.flights.most = Math.max(window.flights.most, ++window.flights.now);
        try { return await plain(...asked); } finally { window.flights.now -= 1; }
    };
"""
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def ask(server: Served, path: str, body: bytes | None = None, method: str = "GET", **headers: str) -> Any:
    """The server's answer to a program."""
    request = urllib.request.Request(server.url + path, data=body, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def work(server: Served, photo: Path, **headers: str) -> str:
    """An image, and four clicks of which two are hits; the image's id."""
    file = photo.read_bytes()
    ask(server, "v1/images", file, "POST", **headers)
    image_id = hashlib.sha256(file).hexdigest()
    for x in (300, 300, 320, 300):
        click = json.dumps({"points": [{"x": x, "y": 200}]}).encode()
        ask(server, f"v1/images/{image_id}/masks", click, "POST", **{"Content-Type": "application/json", **headers})
    return image_id


def until_the_disk_has(server: Served, kind: str) -> Any:
    """Entries of the disk tier by kind, once it has some of that kind: it is written behind the answer."""
    give_up = time.monotonic() + PATIENCE_S
    while not (held := ask(server, "v1/cache")["tiers"][1]["entries_by_kind"]).get(kind, 0):
        assert time.monotonic() < give_up, held
        time.sleep(0.1)
    return held


@contextlib.contextmanager
def administered(folder: Path) -> Iterator[Served]:
    """A server with an admin key, and open otherwise."""
    server = Served(folder, LABELING_GROUND_ADMIN_KEY=ADMIN)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests that leave its settings alone."""
    with administered(tmp_path_factory.mktemp("kept")) as server:
        yield server


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Served]:
    """One whose settings a test changes."""
    with administered(tmp_path) as server:
        yield server


class Operator:
    """Looks at one page."""

    def __init__(self, page: Any, server: Served) -> None:
        self.page = page
        self.server = server
        go(page, server.url + "cache")

    def sees(self, selector: str, text: str) -> None:
        """Wait until something says so."""
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def figures(self) -> Any:
        """The server's figures, once they stand still and the page shows them: it asks again after showing them."""
        shown = None
        for _ in range(30):
            with self.page.expect_response("**/v1/cache") as answered:
                figures = answered.value.json()
            told = figures["kinds"], [(tier["entries"], tier["bytes_by_kind"]) for tier in figures["tiers"]]
            if told == shown:
                return figures
            shown = told
        raise AssertionError(f"the figures do not come to rest: {shown}")

    def confirm(self, *words: str) -> None:
        """Say yes to what is asked, after a look at it."""
        self.page.wait_for_selector("#ask-dialog[open]")
        asked = self.page.locator("#ask-text").inner_text()
        assert [word for word in words if word not in asked] == []
        self.page.click("#ask-yes")

    def give(self, key: str) -> None:
        """Give a key when one is asked for."""
        self.page.wait_for_selector("#key-dialog[open]")
        self.page.fill("#key", key)
        self.page.keyboard.press("Enter")

    def gave_key(self) -> None:
        """The admin key, as if it had been given before."""
        self.page.evaluate("key => sessionStorage.setItem('labeling-ground-admin-key', key)", ADMIN)


def test_the_figures_are_the_servers(kept: Served, context: Any, photos: dict[str, Path], shots: Path) -> None:
    """By kind, by tier and by outcome; and the money at the price that is typed, which stays."""
    work(kept, photos["coffee"])
    operator = Operator(context.new_page(), kept)
    page = operator.page
    operator.sees("#state", "live")
    figures = operator.figures()
    assert figures["kinds"]["mask"]["hits"] >= 2
    operator.sees("#hit-ratio", f"{figures['hit_ratio'] * 100:.0f} %")
    concepts = {"trunk", "text", "exemplars", "detections"}
    assert operator.page.locator("#lookups [data-kind]").count() == len(figures["kinds"].keys() - concepts)
    for kind, found in figures["kinds"].items():
        if kind in concepts:  # of a model that this server does not have
            continue
        part = page.locator(f"#lookups [data-kind={kind}]")
        assert f"{found['lookups']} look-ups" in part.inner_text()
        if found["lookups"]:
            asked = sum(found["asked"].values())
            assert f"{found['hit_ratio'] * 100:.0f} % of {asked} asked for" in part.inner_text()
            told = part.locator("li").all_inner_texts()
            fresh = found["misses"] - found["recomputed"]
            counts = (found["hits"], found["joined"], found["recomputed"], fresh)
            assert [int(words.split()[-1]) for words in told] == list(counts)
    for tier in figures["tiers"]:
        part = page.locator(f"#tiers [data-tier={tier['tier']}]")
        assert f"{tier['entries']} entries" in part.inner_text()
        assert f"{tier['budget'] // (1 << 30)} GiB" in part.locator("p").first.inner_text()
        assert part.locator("rect:not(.track)").count() == sum(many > 0 for many in tier["bytes_by_kind"].values())
    shown = {
        (row.get_attribute("data-kind"), row.get_attribute("data-outcome")) for row in page.locator(".latency").all()
    } - {(None, None)}
    assert shown == {(row["kind"], row["outcome"]) for row in figures["latency"]["rows"]}
    assert page.locator("#engines tbody tr").count() == len(figures["queues"])
    assert page.locator("#health").inner_text() == "ok"
    page.fill("#price", "7200")
    saved = page.locator("#money-saved").inner_text().replace(",", "")
    assert float(saved) == pytest.approx(figures["seconds_saved"] * 2, abs=0.02)
    page.screenshot(path=shots / "cache.png", full_page=True)
    reload(page)
    operator.sees("#state", "live")
    assert page.input_value("#price") == "7200"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(243, 245, 248)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 24)"


def test_it_is_live_and_rests_while_nobody_looks(kept: Served, context: Any, photos: dict[str, Path]) -> None:
    """One request at a time; none while the tab is hidden; at once when it is looked at again."""
    context.add_init_script(COUNT_FLIGHTS)
    operator = Operator(context.new_page(), kept)
    page = operator.page
    operator.sees("#state", "live")
    before = ask(kept, "v1/cache")["kinds"]["mask"]["lookups"]
    work(kept, photos["voc"])
    operator.sees("#lookups [data-kind=mask]", f"{before + 4} look-ups")
    page.wait_for_selector("#live-lookups rect.hit", state="attached")
    assert page.evaluate("window.flights.most") == 1
    page.evaluate(HIDE, True)
    operator.sees("#state", "paused")
    seen = page.evaluate("window.flights.seen")
    page.wait_for_timeout(2500)
    assert page.evaluate("window.flights.seen") == seen
    page.evaluate(HIDE, False)
    operator.sees("#state", "live")
    page.wait_for_function("seen => window.flights.seen > seen", arg=seen)


def test_a_purge_asks_first_and_takes_the_admin_key(
    kept: Served, context: Any, photos: dict[str, Path], shots: Path
) -> None:
    """No, then a wrong key, then nothing, then the right key; after that the tab has it."""
    image_id = work(kept, photos["coffee"])
    operator = Operator(context.new_page(), kept)
    page = operator.page
    page.click("#purge-all button:enabled")
    page.wait_for_selector("#ask-dialog[open]")
    page.screenshot(path=shots / "cache-ask.png")
    page.keyboard.press("Escape")
    assert not page.locator("#key-dialog").is_visible()
    page.click("#purge-all button")
    operator.confirm("everything", "entries")
    operator.give("not the operator's")
    operator.sees("#key-trouble", "did not accept")
    page.screenshot(path=shots / "cache-wrong-key.png")
    page.get_by_role("button", name="Cancel").click()
    operator.sees("#purge-told", "Nothing was done")
    assert ask(kept, f"v1/images/{image_id}")["encoded"] is True
    page.set_input_files("#purge-file", str(photos["coffee"]))
    page.wait_for_function("id => document.querySelector('[name=image_id]').value === id", arg=image_id)
    page.click("#purge-image .danger")
    operator.confirm(image_id)
    operator.give(ADMIN)
    operator.sees("#purge-told", "Deleted: ")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(kept, f"v1/images/{image_id}")
    work(kept, photos["rocket"])
    page.click("#purge-model .danger")
    operator.confirm("classical", "image files stay")
    operator.sees("#purge-told", "Deleted: ")
    held = until_the_disk_has(kept, "image")
    assert held.get("mask", 0) == held.get("embedding", 0) == 0
    page.click("#purge-all button")
    operator.confirm()
    operator.sees("#tiers [data-tier=disk]", "0 entries")
    assert sum(tier["entries"] for tier in ask(kept, "v1/cache")["tiers"]) == 0


def test_settings_are_changed_as_they_are_typed(changed: Served, context: Any, shots: Path) -> None:
    """Only what was changed is asked about and sent; what is being typed is not overwritten by new figures."""
    operator = Operator(context.new_page(), changed)
    page = operator.page
    page.wait_for_selector("#settings [name=policy]:enabled")
    operator.gave_key()
    before = ask(changed, "v1/cache")["settings"]
    assert page.locator("#settings .primary").is_disabled()
    page.fill("#settings [name=memory_bytes]", "77.5")
    with page.expect_response("**/v1/cache"):
        pass
    with page.expect_response("**/v1/cache"):
        pass
    assert page.input_value("#settings [name=memory_bytes]") == "77.5"
    page.select_option("#settings [name=policy]", "lru")
    assert page.locator("#settings [name=done_weight]").is_hidden()
    with page.expect_request(lambda request: request.method == "PUT") as sent:
        page.click("#settings .primary")
        operator.confirm("Eviction policy: gds → lru", "Memory budget, MiB: ", " → 77.5")
    assert sent.value.post_data_json == {"policy": "lru", "memory_bytes": round(77.5 * MIB)}
    operator.sees("#settings-told", "Changed.")
    assert page.locator("#settings .primary").is_disabled()
    after = ask(changed, "v1/cache")["settings"]
    assert after == {**before, "policy": "lru", "memory_bytes": round(77.5 * MIB)}
    operator.sees("#tiers [data-tier=memory]", "77.5 MiB")
    page.fill("#settings [name=idle_seconds]", "5")
    page.click("#settings [type=reset]")
    assert page.input_value("#settings [name=idle_seconds]") == "30"
    page.fill("#settings [name=idle_seconds]", "0.01")
    assert page.evaluate("document.querySelector('#settings').checkValidity()") is False


def test_a_tier_that_does_not_answer_shows_no_figures_of_its_own(kept: Served, context: Any, shots: Path) -> None:
    """Nobody knows what it holds; and a day in which nothing was asked for says up to when."""
    figures, history = ask(kept, "v1/cache"), ask(kept, "v1/cache/history?since=0")
    away = figures["tiers"][-1] | {"answers": False, "breaker": "open", "bytes": 0, "budget": 0, "entries": 0}
    nothing: dict[str, list[Any]] = {name: [] for name in history["columns"]}
    page = context.new_page()
    page.route("**/v1/cache", lambda route: route.fulfill(json=figures | {"tiers": [away | {"bytes_by_kind": {}}]}))
    page.route("**/v1/cache/history*", lambda route: route.fulfill(json=history | {"columns": nothing}))
    operator = Operator(page, kept)
    operator.sees("#tiers", "does not answer · breaker open")
    assert [word for word in ("0 B of", "0 entries") if word in page.locator("#tiers").inner_text()] == []
    operator.sees("#day-sum", "up to a minute ago")
    page.screenshot(path=shots / "cache-tier-away.png", full_page=True)


def test_a_server_that_dies_is_said_and_waited_for(
    context: Any, photos: dict[str, Path], tmp_path: Path, shots: Path
) -> None:
    """The last figures stay, with their time; when it is back the page goes on by itself."""
    server = Served(tmp_path)
    server.start()
    try:
        work(server, photos["coffee"])
        operator = Operator(context.new_page(), server)
        page = operator.page
        operator.sees("#lookups [data-kind=mask]", "4 look-ups")
        server.kill()
        operator.sees("#banner", "does not answer")
        operator.sees("#state", "server gone")
        assert "4 look-ups" in page.locator("#lookups [data-kind=mask]").inner_text()
        page.screenshot(path=shots / "cache-gone.png")
        page.click("#purge-all button")
        operator.confirm()
        operator.sees("#purge-told", "does not answer")
        server.start()
        operator.sees("#state", "live")
        page.wait_for_selector("#banner", state="hidden")
        operator.sees("#lookups [data-kind=mask]", "0 look-ups")
    finally:
        server.kill()


def test_a_server_with_keys_shows_its_figures_to_who_has_one(
    context: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    """The page itself is open. An image is purged in all namespaces; a tier that is not there is not asked for."""
    keys = {"LABELING_GROUND_API_KEYS": "one-of-two", "LABELING_GROUND_ADMIN_KEY": ADMIN}
    closed = Served(tmp_path, LABELING_GROUND_DISK_BYTES="0", **keys)
    closed.start()
    try:
        image_id = work(closed, photos["coffee"], **{"X-API-Key": "one-of-two"})
        operator = Operator(context.new_page(), closed)
        page = operator.page
        page.wait_for_selector("#key-dialog[open]")
        page.keyboard.press("Escape")
        operator.sees("#banner", "need an API key")
        page.click("#give-key")
        operator.give("two")
        operator.sees("#key-trouble", "did not accept")
        operator.give("one-of-two")
        operator.sees("#state", "live")
        operator.sees("#lookups [data-kind=mask]", "4 look-ups")
        operator.gave_key()
        page.fill("#purge-image [name=image_id]", image_id)
        page.click("#purge-image .danger")
        operator.confirm(image_id)
        operator.sees("#purge-told", "Deleted: ")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(closed, f"v1/images/{image_id}", None, "GET", **{"X-API-Key": "one-of-two"})
        assert page.locator("#settings [name=disk_bytes]").is_hidden()
        page.fill("#settings [name=idle_seconds]", "7")
        page.click("#settings .primary")
        operator.confirm("30 → 7")
        operator.sees("#settings-told", "Changed.")
        assert ask(closed, "v1/cache", None, "GET", **{"X-API-Key": "one-of-two"})["settings"]["idle_seconds"] == 420
    finally:
        closed.kill()


def test_without_an_admin_key_settings_stay_and_purging_is_open(
    served: Served, context: Any, photos: dict[str, Path]
) -> None:
    """The page says what to start the server with."""
    work(served, photos["voc"])
    operator = Operator(context.new_page(), served)
    operator.sees("#settings-more", "LABELING_GROUND_ADMIN_KEY")
    assert operator.page.locator("#settings :enabled").count() == 0
    operator.page.click("#purge-model .danger")
    operator.confirm("classical")
    operator.sees("#purge-told", "Deleted: ")


def test_it_fits_a_phone_in_both_languages(kept: Served, chromium: Any, photos: dict[str, Path], shots: Path) -> None:
    """360 pixels wide, nothing to be scrolled sideways; and the language is that of the labeling page."""
    work(kept, photos["coffee"])
    phone = profile(chromium, viewport={"width": 360, "height": 740}, device_scale_factor=2, locale="ko-KR")
    try:
        operator = Operator(phone.new_page(), kept)
        page = operator.page
        operator.sees("#state", "실시간")
        assert page.locator("html").get_attribute("lang") == "ko"
        page.screenshot(path=shots / "cache-phone-ko.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.select_option("#language", "en")
        operator.sees("h2", "What is held")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        wide = (
            "[...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > 361).length"
        )
        assert page.evaluate(wide) == 0

        def leave() -> None:
            with page.expect_navigation():
                page.click("header a.button")

        arrive(page, leave, kept.url)
        page.wait_for_selector("html[data-started=yes] #welcome", state="attached")
        assert page.locator("html").get_attribute("lang") == "en"
        page.click("#help")
        page.click("#help-dialog a[href=cache]")
        operator.sees("#state", "live")
    finally:
        phone.close()


def test_everything_that_can_be_pressed_or_seen_has_a_name(kept: Served, context: Any, photos: dict[str, Path]) -> None:
    """For those who hear the page; and each plot says in words what it shows."""
    work(kept, photos["coffee"])
    operator = Operator(context.new_page(), kept)
    page = operator.page
    operator.sees("#state", "live")
    page.wait_for_selector("#ages svg", state="attached")
    nameless = page.evaluate(
        """[...document.querySelectorAll("a, button, input:not([hidden]), select, section, main svg")]
            .filter((one) => one.checkVisibility() && !one.labels?.length && !one.getAttribute("aria-label")
                && !one.getAttribute("aria-labelledby") && !one.textContent.trim())
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("main svg.plot").count() >= 12
    assert page.locator("main svg.plot:not([role=img])").count() == 0
