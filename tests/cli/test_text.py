import pytest

from jaxmerge.cli.text import human_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("5G", 5 * 10**9),
        ("5B", 5 * 10**9),  # As in mergekit, where B is for billion.
        ("1.5GiB", 3 * 2**29),
        ("500mb", 5 * 10**8),
        ("12345", 12345),
        (" 2 TB ", 2 * 10**12),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5X", "-1GB", "0", "nanGB", "infB", "1iB"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match=r"no size|no room"):
        parse_bytes(text)


def test_human_sizes_do_not_round_to_a_thousand():
    assert human_bytes(999_999) == "1.0 MB"
    assert human_bytes(999) == "999 B"
