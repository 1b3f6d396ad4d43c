"""From the setting to an address and to names."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labeling_ground import key as keys
from labeling_ground.cache.redis.address import RedisAddress, Shape, parse
from labeling_ground.cache.redis.connect import Tls, connect
from labeling_ground.cache.redis.names import Names
from labeling_ground.errors import BadSettings


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://box", RedisAddress(Shape.SINGLE, (("box", 6379),))),
        ("redis://box:7000/3", RedisAddress(Shape.SINGLE, (("box", 7000),), db=3)),
        ("redis://box?db=3", RedisAddress(Shape.SINGLE, (("box", 6379),), db=3)),
        ("redis://[::1]:7000", RedisAddress(Shape.SINGLE, (("::1", 7000),))),
        ("redis://[::1]", RedisAddress(Shape.SINGLE, (("::1", 6379),))),
        ("redis://:p@box", RedisAddress(Shape.SINGLE, (("box", 6379),), password="p")),
        ("redis://me:p%40%2F%3A@box", RedisAddress(Shape.SINGLE, (("box", 6379),), username="me", password="p@/:")),
        ("rediss://me:p@box", RedisAddress(Shape.SINGLE, (("box", 6379),), tls=True, username="me", password="p")),
        ("unix:///run/redis.sock", RedisAddress(Shape.SINGLE, path="/run/redis.sock")),
        ("unix://:p@/run/redis.sock?db=2", RedisAddress(Shape.SINGLE, path="/run/redis.sock", db=2, password="p")),
        ("redis+cluster://a,b:7001", RedisAddress(Shape.CLUSTER, (("a", 6379), ("b", 7001)))),
        ("rediss+cluster://:p@a", RedisAddress(Shape.CLUSTER, (("a", 6379),), tls=True, password="p")),
        (
            "redis+sentinel://me:p@a,b:7/lg/2?sentinel_username=s&sentinel_password=q",
            RedisAddress(
                Shape.SENTINEL,
                (("a", 26379), ("b", 7)),
                db=2,
                service="lg",
                username="me",
                password="p",
                sentinel_username="s",
                sentinel_password="q",
            ),
        ),
    ],
)
def test_every_form_is_read(url: str, address: RedisAddress) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "box:6379",
        "http://box",
        "redis://",
        "redis://a,b",
        "redis://a:port",
        "redis://a/one",
        "redis://a/1/2",
        "redis://a?timeout=3",
        "redis://:secret#hash@a",
        "redis+cluster://a/1",
        "redis+cluster://a,,b",
        "redis+sentinel://a",
        "unix://box/run/redis.sock",
        "unix://",
        "unix+cluster:///run/redis.sock",
        "redis://[::1",
    ],
)
def test_anything_else_is_refused_with_a_sentence_that_repeats_no_secret(url: str) -> None:
    with pytest.raises(BadSettings, match=r"redis_url cannot be used: .*redis\+sentinel://") as refusal:
        parse(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:geheim@box/1",
        "unix://:geheim@/run/redis.sock",
        "rediss+cluster://:geheim@a,b",
        "redis+sentinel://:geheim@a/lg?sentinel_password=geheim",
    ],
)
def test_no_password_is_told(url: str) -> None:
    connection = connect(url)
    for told in (str(connection.address), repr(connection.address), repr(connection), repr(connection.client)):
        assert "geheim" not in told


def test_an_address_reads_back() -> None:
    for url in ("redis://box:7/1", "unix:///s?db=0", "rediss+cluster://a:1,b:2", "redis+sentinel://[::1]:3/lg/4"):
        assert str(parse(url)) == url


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"no file .*absent\.pem"):
        connect("rediss://box", tls=Tls(ca_file=tmp_path / "absent.pem"))


NAMES = Names("lg")


def test_all_about_one_image_lies_in_one_slot() -> None:
    of = keys.ImageKeys(keys.PUBLIC, "ab" * 32)
    assert NAMES.redis_key(of.image) == b"lg:v1/public/{" + b"ab" * 32 + b"}/image"
    assert NAMES.name_for(of.image, "lease") == b"lg.lease:v1/public/{" + b"ab" * 32 + b"}/image"
    assert NAMES.ours("purges") == b"lg.purges"


@pytest.mark.parametrize("prefix", ["", "a b", "a*", "{a}", "a:b", "a" * 65])
def test_a_prefix_that_means_something_to_redis_is_refused(prefix: str) -> None:
    with pytest.raises(BadSettings, match="redis_prefix"):
        Names(prefix)


@given(st.text(st.sampled_from("ab/{}*?[]\\:^-é"), max_size=12))
def test_a_name_leads_back_to_its_key(key: str) -> None:
    assert NAMES.key_of(NAMES.redis_key(key)) == key


@given(st.sets(st.text(st.sampled_from("a/{}b"), max_size=8), min_size=2))
def test_two_keys_have_two_names(some: set[str]) -> None:
    assert len({NAMES.redis_key(key) for key in some}) == len(some)


def test_names_of_others_are_no_keys() -> None:
    for name in (b"lg2:v1/a", b"lg.lease:v1/public/{x}/image", b"v1/public/x/image", b"\xff\xfe"):
        assert NAMES.key_of(name) is None


def _redis_glob(glob: str, name: str) -> bool:
    """What Redis' MATCH does, for the few signs that we send."""
    if not glob:
        return not name
    if glob[0] == "*":
        return any(_redis_glob(glob[1:], name[at:]) for at in range(len(name) + 1))
    if glob[0] == "\\" and len(glob) > 1:
        return name[:1] == glob[1] and _redis_glob(glob[2:], name[1:])
    return name[:1] == glob[0] and _redis_glob(glob[1:], name[1:])


@example("*[", "//[")
@given(
    st.text(st.sampled_from("ab/*["), max_size=10),
    st.text(st.sampled_from("ab/["), max_size=10),
)
def test_a_scan_never_finds_less_than_is_meant(pattern: str, key: str) -> None:
    if keys.matcher(pattern)(key):
        assert _redis_glob(NAMES.glob(pattern).decode(), NAMES.redis_key(key).decode())


def test_a_scan_for_one_image_finds_no_other_image() -> None:
    of, other = (keys.ImageKeys("public", keys.image_id(name)) for name in (b"1", b"2"))
    for pattern in (keys.pattern("public", of.image_id), keys.pattern(None, of.image_id)):
        glob = NAMES.glob(pattern).decode()
        assert _redis_glob(glob, NAMES.redis_key(of.image).decode())
        assert not _redis_glob(glob, NAMES.redis_key(other.image).decode())
