"""The benchmark of decode: which caches and contenders it times, and what it says of them."""

from skiplab.bench import decode


def test_each_cache_is_timed_with_its_own_bytes_and_error():
    rows = {row["contender"]: row for row in decode.measure("D64 32/8", 300, 320, "cpu", 0.01, decode.contenders)}
    assert list(rows) == ["blockskip tiled", "torch", "blockskip tiled float8"]
    assert not any("failed" in row for row in rows.values())
    read, given_back = 2 * 64 * 8 * 300, 2 * 2 * 64 * 32  # keys and values; q and out in bf16
    assert rows["torch"]["bytes"] == 2 * read + given_back
    assert rows["blockskip tiled float8"]["bytes"] == read + given_back
    assert rows["torch"]["error"] < 2e-3 < rows["blockskip tiled float8"]["error"] < 5e-2
