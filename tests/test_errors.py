"""What sentences may repeat."""

import pytest

from labeling_ground.errors import shown_url


@pytest.mark.parametrize(
    ("url", "whole", "short"),
    [
        ("http://gpu:8080", "http://gpu:8080", "http://gpu:8080"),
        ("http://ann:s3cret@gpu:8080/a/b", "http://gpu:8080/a/b", "http://gpu:8080"),
        ("https://s3cret@[::1]:8080/", "https://[::1]:8080/", "https://[::1]:8080"),
        ("https://files.example/x?token=s3cret#s3cret", "https://files.example/x", "https://files.example"),
        ("http://a@s3cret@gpu", "http://gpu", "http://gpu"),
        ("http://s3cret@[gpu", "an address that cannot be read", "an address that cannot be read"),
    ],
)
def test_of_a_url_nothing_is_repeated_that_can_be_a_key(url: str, whole: str, short: str) -> None:
    assert shown_url(url) == whole
    assert shown_url(url, path=False) == short
