"""The benchmark of decode: which caches and contenders it times, and what it says of them."""

import json

import pytest
from skiplab.bench import decode, record


def test_each_cache_is_timed_with_its_own_bytes_and_error():
    rows = {row["contender"]: row for row in decode.measure("D64 32/8", 300, 320, "cpu", 0.01, decode.contenders)}
    assert list(rows) == ["blockskip tiled", "torch", "blockskip tiled float8"]
    assert not any("failed" in row for row in rows.values())
    read, given_back = 2 * 64 * 8 * 300, 2 * 2 * 64 * 32  # keys and values; q and out in bf16
    assert rows["torch"]["bytes"] == 2 * read + given_back
    assert rows["blockskip tiled float8"]["bytes"] == read + given_back
    assert rows["torch"]["error"] < 2e-3 < rows["blockskip tiled float8"]["error"] < 5e-2


@pytest.mark.parametrize(
    ("device", "first"),
    [({}, "a CPU ("), ({"device": "a CPU"}, "a CPU ("), ({"device": "a GPU"}, "a GPU, beside a CPU (")],
)
def test_a_record_says_first_what_its_times_are_of(device, first, tmp_path):
    """A benchmark of a GPU names that, one of the processor the processor alone."""
    where = {**record.machine(), "cpu": "a CPU", **device}
    record.write("one", "One", ["a note"], ["a table"], {"machine": where}, tmp_path)
    title, measured, *_ = (tmp_path / "one.md").read_text().split("\n\n")
    assert title == "# One" and measured.startswith(f"Measured on {first}")
    assert json.loads((tmp_path / "one.json").read_text())["machine"] == where


def test_the_recorded_decode_says_what_would_be_written_of_it():
    """Its page names the GPU that its numbers were recorded on."""
    held = json.loads((record.FOLDER / "decode.json").read_text())["machine"]
    assert f"Measured on {held['device']}, beside {held['cpu']} (" in (record.FOLDER / "decode.md").read_text()
