"""The fields of the settings, a class for each subject; those of models are in ``model_fields.py``.

The sentence under each field is its documentation: ``make docs`` writes ``docs/settings.md`` from here.
"""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, ByteSize, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from labeling_ground.settings.machine import (
    below_home,
    memory_of_this_machine,
)
from labeling_ground.settings.types import (
    AdapterName,
    Address,
    HostName,
    Listed,
    Origin,
    RootPath,
    Source,
)

ENV_PREFIX = "LABELING_GROUND_"


class Fields(BaseSettings):
    """Some of the settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class ServerSettings(Fields):
    """The server's address, and access to it."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; `0.0.0.0` opens the server to the network."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and says which."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """One line a request, for people (`text`) or for machines (`json`); `auto` is `text` on a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is worth a log line."""
    root_path: RootPath = ""
    """Path below which a proxy serves this server, such as `/label`; the proxy may cut it off or not. See
    `docs/network.md`. Not set: the server has its host name for itself."""
    allowed_hosts: Listed[HostName] = ()
    """Host names, separated by commas, that the server answers to besides `localhost`, `host` and IP addresses: this
    machine's names in your network, or the name that a proxy passes on. `*.example.org` means each name below it, `*`
    any. Other names are answered 421. Not set: none more, or any where `api_keys` are set. See `docs/network.md`."""
    cors_origins: Listed[Origin] = ()
    """Web origins, separated by commas, whose pages may call this server from a browser, such as
    `https://label.example.org`. None by default: pages of other web sites are answered 403. `*` lets every web site use
    the server through the browser of anybody who can reach it; do not set it without `api_keys`."""
    api_keys: Listed[SecretStr] = ()
    """Keys of 8 characters or more, separated by commas, one of which every call must then carry
    (`Authorization: Bearer …`, `X-API-Key`, or the password of `Authorization: Basic`). Each key has a namespace of its
    own in the cache. None by default: all who reach the port may use the server."""
    admin_key: SecretStr | None = None
    """A key of 8 characters or more, with which `DELETE /v1/cache` purges all namespaces, and `PUT /v1/cache/settings`
    changes settings of the cache; without it nobody changes them. With `api_keys` set, each other key purges its own
    namespace only; without them, nobody else purges everything at once."""
    adapters: Listed[AdapterName] = ("all",)
    """Which labeling tools' own protocols are spoken, separated by commas: `label-studio`, `x-anylabeling`, `roboflow`,
    `cvat`, `qupath`; or `all`, or `none`. See `docs/tools/`."""
    browser_runtime_dir: Path = Field(default_factory=lambda: below_home("XDG_DATA_HOME", ".local/share") / "browser")
    """Folder of what the labeling page needs to decode in the browser; `labeling-ground browser-decoder` fills it.
    Without it the page has every mask computed by the server."""
    share_decoder: bool = True
    """Whether clients may have the model's decoder, to decode themselves. Switch it off for weights that shall not
    leave the server."""
    workers: int = Field(1, ge=1, le=256)
    """Processes that answer, behind one port: as many as there are cores use all of them. They share the disk tier or a
    Redis, of which there must be one, and the engine's process; budgets of memory are for all of them together, other
    limits for each. See `docs/workers.md`."""
    worker_silence_s: float = Field(60.0, ge=0)
    """Seconds after which a worker, or the engine's process, that hangs (its event loop stands still) is killed and
    started anew; 0: never."""
    worker_answer_s: float = Field(5.0, gt=0)
    """Seconds that one worker has to tell the others its figures and its health; one that takes longer is left out."""
    shutdown_grace_s: float = Field(30.0, ge=0)
    """Seconds that requests in flight, and images that were queued (`wait=false`), have to finish after the server was
    told to stop, besides `drain_delay_s`. An image whose turn has not come by then has to be sent again."""
    shutdown_write_s: float = Field(10.0, ge=0)
    """Seconds, after that, in which what waits to be written to the disk tier and to Redis still is, and half of it
    before that for sessions; then it is given up. Supervisors must let a server live for longer than all of these."""
    shutdown_idle_s: float = Field(1.0, ge=0)
    """Seconds for which a connection that waits for its next request stays open when the server stops: a request may be
    on its way already."""
    drain_delay_s: float = Field(0.0, ge=0)
    """Seconds for which a server that was told to stop still takes new connections, while `/health/ready` says that it
    is not ready: so long as load balancers take to notice. Its answers end their connections. Engines send new asks to
    the other engines at once."""


class LimitSettings(Fields):
    """Limits on requests, each checked before the work that it bounds."""

    max_image_bytes: ByteSize = ByteSize(32 << 20)
    """Largest image file."""
    max_image_pixels: int = Field(50_000_000, ge=1)
    """Largest image, in pixels (width × height), known from the file's header before it is decoded."""
    max_image_side: int = Field(65_535, ge=1)
    """Longest side of an image, in pixels, known as early."""
    max_pixels_at_once: int = Field(50_000_000, ge=1)
    """Most pixels of all images that are decoded and encoded at the same time; others wait for their turn, and a larger
    one has it alone. Each takes up to 16 bytes of memory, besides the budgets of the cache."""
    max_points: int = Field(256, ge=1)
    """Most points in one prompt, and most clicks in one session."""
    max_prompts: int = Field(64, ge=1)
    """Most prompts in one request."""
    max_concepts: int = Field(32, ge=1)
    """Most phrases in one request for concepts."""
    max_phrase_length: int = Field(200, ge=1)
    """Most characters of a phrase. The model has a limit of its own, in tokens: SAM 3 takes 32."""
    max_exemplars: int = Field(64, ge=1)
    """Most exemplars in one request for concepts."""
    max_body_bytes: ByteSize = ByteSize(1 << 20)
    """Largest body of a request that carries no image."""
    max_header_bytes: ByteSize = ByteSize(64 << 10)
    """Largest request line and headers together; more is answered 431."""
    max_requests: int = Field(512, ge=1)
    """Most requests in flight; one more is answered 503 with `Retry-After`. Those that wait for their client, to send
    or to take the answer, are not counted, nor are health, metrics, and the files of the pages and of `/docs`. Requests
    with an `X-Priority` of `prefetch` or `job` have half of it. Where they run short, API keys (without keys, client
    addresses) have equal parts: one with less is answered, up to `tenant_share` beyond the limit."""
    max_bytes_in_flight: ByteSize = ByteSize(1 << 30)
    """Most bytes that the bodies of all requests in flight hold together; beyond that 503 with `Retry-After`. Images
    that are queued (`wait=false`) count until they are encoded, and have at most half. Shared as `max_requests` are."""
    receive_timeout_s: float = Field(20.0, gt=0)
    """Longest silence, in seconds, while a client sends a body, and longest time for its headers; then 408."""
    send_timeout_s: float = Field(20.0, gt=0, le=86_400)
    """Seconds in which a client must take `min_bytes_per_s` of its answer for each second, or the connection is cut."""
    min_bytes_per_s: ByteSize = Field(ByteSize(1 << 10), ge=1)
    """Bytes a second below which a client, in the long run, is taken to hold its connection rather than to send or to
    read; `receive_timeout_s` and `send_timeout_s` say for how long."""
    keep_alive_s: int = Field(75, ge=1, le=86_400)
    """Seconds for which a connection stays open between two requests. Longer than a proxy or load balancer in front
    keeps its own ones, or it may send a request into one that is just being closed."""
    half_close_s: float = Field(0.25, ge=0, le=86_400)
    """Seconds after which a client that says that it sends no more, and waits for its answer (`nc -N`, the checks of
    some proxies), is asked with an interim `100 Continue` whether it is still there. One that has left looks the same
    until then; what it asked for is stopped. HTTP/1.0 has no such answer: there it is taken to have left. `0`: always
    and at once."""
    discard_bytes: ByteSize = ByteSize(1 << 30)
    """Most bytes of a request that are read and thrown away after it was refused; a client that is still sending would
    otherwise get a closed connection in place of the answer."""
    discard_timeout_s: float = Field(60.0, gt=0, le=86_400)
    """Longest time, in seconds, for that."""
    adapter_texts: int = Field(10_000, ge=1)
    """Of the images that labeling tools send whole with every click: how many are known by their base64 text, for each
    API key. One that is not known any more is hashed anew, and not computed anew."""
    adapter_deadline_s: float = Field(90.0, gt=0, le=86_400)
    """Seconds after which a labeling tool's click is answered 503, while what was begun goes on and is kept. Below what
    the tools themselves wait: 100 for Label Studio, 120 for CVAT, 180 for X-AnyLabeling."""


class SourceSettings(Fields):
    """Images by their address, and the labeling tools that they are fetched from."""

    sources: Listed[Source] = ()
    """Where images may be fetched from, separated by commas: host names such as `images.example.org`, with a port if it
    is not the usual one; `*.example.org` for each name below it, `*` for any; buckets as `s3://bucket/prefix`, `gs://…`
    or `azure://container/…`. A host in a private network, or on this machine, needs `private:` before it
    (`private:nas.lan:8080`). None by default. See `docs/images.md`."""
    source_timeout_s: float = Field(30.0, gt=0, le=86_400)
    """Longest time, in seconds, to fetch one image, redirects and waiting for a turn included."""
    source_redirects: int = Field(5, ge=0, le=20)
    """Most redirects on the way to an image. Each must lead to a host that `sources` names."""
    source_fetches: int = Field(8, ge=1)
    """Images fetched at the same time; others wait."""
    source_fresh_s: float = Field(60.0, ge=0)
    """Seconds for which the image at an address is taken to be the same. After that its host is asked whether it has
    changed (`ETag`, `Last-Modified`), or sends it anew."""
    source_addresses: int = Field(10_000, ge=1)
    """Addresses whose image is remembered."""
    label_studio_url: Address | None = Field(
        None, validation_alias=AliasChoices("label_studio_url", f"{ENV_PREFIX}label_studio_url")
    )
    """Where Label Studio is reached from this server, such as `http://label-studio:8080`: images of its tasks are
    fetched there. The variable may be called `LABEL_STUDIO_URL`. See `docs/tools/label-studio.md`."""
    label_studio_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("label_studio_api_key", f"{ENV_PREFIX}label_studio_api_key")
    )
    """A personal access token, or a legacy token, of a Label Studio user who may see the images. The variable may be
    called `LABEL_STUDIO_API_KEY`."""
    label_studio_bytes: ByteSize = ByteSize(32 << 20)
    """Most bytes of all annotations and drafts of one task, which Label Studio sends with each click."""
    cvat_labels: Listed[str] = ()
    """Labels that CVAT's detector finds, each the phrase that is looked for; it takes a model that takes text. Not set:
    there is no detector (`docs/tools/cvat.md`)."""
    nuclio_url: Address | None = None
    """Address of a Nuclio dashboard, for CVAT: the functions that it has stand beside ours in CVAT's list, and calls of
    them are passed on to it. Not set: ours is the only one."""


class RedisSettings(Fields):
    """Redis, and what servers that share it compute once."""

    redis_url: SecretStr | None = None
    """Redis as a tier that all servers share: `redis://user:password@host:port/db`, `rediss://…` (TLS),
    `unix:///path/to/redis.sock`, `redis+cluster://host:port,host:port`, `redis+sentinel://host:port,host:port/service/db`
    (`rediss+cluster://`, `rediss+sentinel://` with TLS). Not set: no Redis."""
    redis_prefix: str = "lg"
    """What all names in Redis start with: servers that shall not share a cache differ in it."""
    redis_ca_file: Path | None = None
    """Certificate authorities (PEM), one of which must have signed the server's certificate; not set: the system's."""
    redis_cert_file: Path | None = None
    """Certificate (PEM) to show to Redis, where it asks for one."""
    redis_key_file: Path | None = None
    """Key (PEM) of that certificate."""
    redis_timeout_s: float = Field(2.0, gt=0)
    """Seconds after which a connection to Redis is given up on which an answer is not there in full. No click waits for
    so long: see `lookup_deadline_ms`."""
    redis_connections: int = Field(32, ge=1)
    """Most commands under way to Redis at the same time, and so most connections (subscriptions come on top)."""
    redis_bytes: ByteSize | None = None
    """Memory that Redis has for us, where it does not tell (`maxmemory` is 0, or hidden): no entry above an eighth of
    it is kept."""
    redis_ttl: Literal["equal", "cost"] = "equal"
    """How long an entry may lie unused in Redis, and so which ones go first when Redis is full: with `equal` each has
    the whole `idle_s`, and those unused for longest go first; with `cost` those that are cheap to compute by the byte
    have down to half of it, and go before dear ones. Below a quarter of the memory that everything in use would need,
    `equal` is better there too."""

    leases: Literal["all", "embeddings", "none"] = "all"
    """What servers that share a Redis, or a disk tier without one, compute once for all of them, when several are asked
    for it at the same time: `all`, only `embeddings`, or nothing. A lease costs a click that is new one more command,
    during its look-up. On a disk it takes Linux, and ends at once with a server that dies."""
    lease_s: float = Field(3.0, ge=0.3, le=300)
    """Seconds for which a lease is taken, and renewed every third of them. So long the others wait for a server that
    died in the middle of its work."""
    lease_patience_ms: float = Field(1000.0, gt=0)
    """How long to wait for an answer about the lease on an embedding, and for the embedding that another server has
    made: computing it takes longer. For masks it is `lookup_deadline_ms`."""


class TierSettings(Fields):
    """The cache: its tiers, and what is evicted from them."""

    cache_mode: Literal["parallel", "first"] = "parallel"
    """`parallel` looks up and queues the prediction at the same moment; `first` predicts only after a miss."""
    memory_bytes: ByteSize = Field(default_factory=lambda: ByteSize(min(2 << 30, memory_of_this_machine() // 4)))
    """Budget of the memory tier, at most this machine's memory; by default a quarter of that, up to 2 GiB. No tier has
    a value above an eighth of its budget, so one at least must have eight times the room of an embedding (2 MiB for
    SAM, 8 for SAM 2, twice that in `fp32`)."""
    # What Redis holds is not worth a second copy in each machine, unless somebody says so.
    disk_bytes: ByteSize = Field(
        default_factory=lambda given: ByteSize(0 if given.get("redis_url") is not None else 8 << 30)
    )
    """Budget of the disk tier; 0 switches it off. With Redis it is off unless you give it a size."""
    cache_dir: Path = Field(default_factory=lambda: below_home("XDG_CACHE_HOME", ".cache"))
    """Folder of the disk tier. Several processes of one machine may share it."""
    idle_s: float = Field(1800.0, gt=0)
    """Seconds after its last use at which an entry is deleted. Every use starts the time anew."""
    max_age_s: float | None = Field(None, gt=0)
    """Seconds after which an entry is deleted however much it is used; not set: never."""
    policy: str = "gds"
    """Who goes first when the budget is reached: `gds` (GreedyDual-Size by cost density), `lru`, `gdsf`, `lfu`,
    `idle` (nobody: what is new is not kept while there is no room), or your own `module:attribute`. On disk,
    `idle` and `lfu` go by last use. See `docs/eviction.md`."""
    frequency_exponent: float = Field(0.0, ge=0, le=4)
    """How much the number of uses counts under `gdsf`, in memory: 0 not at all, which is `gds`; 1 in proportion."""
    memory_high_watermark: float = Field(1.0, ge=0.125, le=1)
    """Share of the memory budget above which room is made."""
    memory_low_watermark: float = Field(1.0, ge=0.125, le=1)
    """Share of the memory budget to evict down to then; not above the high one. By default just enough goes."""
    done_weight: float = Field(0.1, gt=0, le=1)
    """Weight, under `gds`, of the entries of an image that no client works on any more."""
    prefetch_per_client: int = Field(4, ge=0)
    """Images that one client's prefetches can hold before they were opened; older ones count as done."""
    upcoming_images: int = Field(1000, ge=1)
    """Most images in one list of `POST /v1/upcoming`."""
    upcoming_total: int = Field(100_000, ge=1)
    """Images of all clients' lists together, and one more for each list; lists whose clients open nothing for longest
    are forgotten first."""
    upcoming_spared: int = Field(32, ge=0)
    """So many images of a list that has proved true are spared from the done hint until they were opened."""
    precision: Literal["fp16", "fp32"] = "fp16"
    """How an embedding's floats are stored: `fp16` halves the bytes, `fp32` keeps every bit."""
    int8_embeddings: Literal["off", "checked", "always"] = "off"
    """Keep an embedding that the memory tier has no room for once more in int8, which halves its bytes, before it is
    dropped; clicks are answered from that, and say so. Where memory is the only tier: a disk or Redis has the full one.
    `checked`: of models whose masks agreed in `models check` on this machine; `always`: of all. See `docs/cache.md`."""
    history_s: float = Field(86_400.0, ge=1)
    """How far back `/v1/cache/history` goes, in seconds. It is a file in the cache's folder where there is a
    disk tier."""
    history_every_s: float = Field(60.0, gt=0)
    """Seconds from one sample of it to the next."""
    trace_file: Path | None = None
    """File to record accesses in (when, which key as a digest, bytes, cost; no image and no prompt), for
    `labeling-ground cache simulate`. Not recorded by default. Each process needs a file of its own."""
    trace_bytes: ByteSize = Field(ByteSize(64 << 20), ge=4096)
    """Size at which that file is put aside (as `FILE.1`, `FILE.2`, …) and a new one begun; an access is 68 bytes."""
    trace_files: int = Field(4, ge=1)
    """How many of those files are kept, the newest among them."""
    answers_bytes: ByteSize = ByteSize(32 << 20)
    """Memory, besides `memory_bytes`, for the text of lately answered masks, so that a repeated click need not be
    written anew; 0: none. A text goes when its entry leaves memory."""
    mask_window_ms: float = Field(2.0, ge=0)
    """A queued mask prediction does not start before its look-up had this long to answer (or has answered)."""
    embedding_window_ms: float = Field(5.0, ge=0)
    """The same for embeddings, where the look-up's own p99 counts if larger, up to a third of the encoder's time."""
    lookup_deadline_ms: float = Field(100.0, gt=0)
    """A look-up that takes longer is a miss; it is left to finish, and what it finds is kept for the next ask."""
    file_deadline_ms: float = Field(5000.0, gt=0)
    """The same for an image's file, where a request cannot be answered without: a tier that does not answer by then is
    503 `unreachable-image`."""
    breaker_failures: int = Field(5, ge=1)
    """Failures in a row after which a tier is left alone for a while."""
    breaker_reset_s: float = Field(5.0, gt=0)
    """That while, in seconds."""
    tier_answer_s: float = Field(2.0, gt=0)
    """Seconds that a tier has to be opened at start, to say whether it works, and to tell its figures."""
    purge_timeout_s: float = Field(120.0, gt=0)
    """Seconds after which a purge, or a change of the cache's settings, is answered 503; what was begun goes on."""
    purge_heard_s: float = Field(1.0, ge=0)
    """Seconds that a purge waits until the other processes on the disk tier have heard of it. One that stands still for
    longer hears of it when it goes on."""
    disk_lock_s: float = Field(5.0, ge=0)
    """Seconds that a write to the disk tier waits for other processes' turns; then the value is not kept there."""
    write_queue_bytes: ByteSize = ByteSize(128 << 20)
    """Memory of each process for values that wait to be written to the disk tier, and as much for Redis. Beyond that,
    where a tier is slow, a value is not written to it, and counted (`dropped`); a larger one has it alone."""
    probe_s: float = Field(5.0, gt=0)
    """Seconds between two looks whether each tier below memory works: `/health/ready` knows of a trouble before a
    request meets it."""


class SessionSettings(Fields):
    """Tenants and sessions."""

    tenant_share: float = Field(0.5, gt=0, le=1)
    """With several `api_keys`: the part of the sessions, of each tier's bytes (not Redis') and of each queue that the
    holder of one key may take up while others need it. Above it one makes room among one's own; below it, one is given
    room by the tenant that has most. See also `max_requests`."""

    max_sessions: int = Field(10_000, ge=1)
    """Sessions kept; the one idle for longest makes room for a new one. They too end after `idle_s`."""
    other_servers: Literal["auto", "none", "some"] = "auto"
    """Whether other servers share this one's Redis, or its disk tier, and so may be asked for a session's next click.
    Then, while sessions are not kept there, their clicks are answered 503; else this server's memory counts. `auto`: in
    Redis it sees who is there; on a disk only its own `workers` are known."""
    session_patience_ms: float = Field(1000.0, gt=0)
    """How long a click of a session waits to be kept where other servers or workers share it; then it is answered
    503."""
    session_refine: bool = True
    """A click that follows another one in a session refines the last mask (its low-res logits are the mask input)."""
