"""Where a kernel's tiles come from: the table, and what was tuned on a device."""

import json
import re
from dataclasses import replace

import blockskip as bs
import pytest
import torch
from blockskip.attention.call import DecodeCall
from blockskip.attention.decode.plan import choose_decode_config
from blockskip.config import TileConfig, length_class
from blockskip.gpu import Gpu
from blockskip.tuned import choose as tuning
from blockskip.tuned.attention import Entry, mask_kind
from blockskip.tuned.choose import Origin, choose_config
from blockskip.tuned.decode import DecodeEntry
from blockskip.tuned.files import CONFIGS, Section, Tuned, read_tuned, tuned_devices, user_folder

H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132)
LONG = 10_000 * 132
ENTRY = {
    "head_dim": 256, "element_bytes": 2, "mask": "window", "window": 1024, "length": "long", "config": [128, 32, 8, 2],
    "workloads": 2, "at": "attention sliding_window(1024) q4096", "median_us": 40.5, "table_us": 43.0,
}  # fmt: skip
SECTION = {"torch": "2.11.0", "triton": "3.6.0", "runs": "a.jsonl", "entries": [ENTRY]}
FILE = {"schema": 3, "device": H100.name, "capability": "9.0", "operations": {"attention": SECTION}}


def entry(**changed):
    return Entry(**{**ENTRY, "config": TileConfig(*ENTRY["config"]), **changed})


def tuned(*entries, device=H100.name, capability=(9, 0)):
    return Tuned(device, capability, {"attention": Section("2.11.0", "3.6.0", "a.jsonl", entries)})


@pytest.fixture
def files(monkeypatch, tmp_path):
    """Puts these in place of `configs/`, and forgets what was chosen before and after."""

    def put(*devices):
        monkeypatch.setattr(tuning, "tuned_devices", lambda: devices)
        tuning._chosen.cache_clear()

    put()
    yield put
    tuning._chosen.cache_clear()


def chosen(mask=None, head_dim=256, dtype=torch.bfloat16, rows=LONG, gpu=H100):
    return choose_config(gpu, head_dim, dtype, mask or bs.sliding_window(1024), rows)


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "h100.json"
    path.write_text(json.dumps(FILE))
    assert read_tuned(path) == tuned(entry())
    assert tuned_devices(tmp_path) == (tuned(entry()),)
    assert entry().fields() == ENTRY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "schema is 1; this version of blockskip reads 3"),
        ({"schema": None}, "schema is None"),
        ({"entries": [{**ENTRY, "mask": "wide"}]}, "mask: given 'wide'; allowed are causal, window, other"),
        ({"entries": [{**ENTRY, "length": "tall"}]}, "length: given 'tall'; allowed are short, medium, long"),
        ({"entries": [{**ENTRY, "head_dim": 1024}]}, "head_dim: given 1024; must be from 8 to 512"),
        ({"entries": [{**ENTRY, "window": None}]}, "window: given None with the mask window"),
        ({"entries": [{**ENTRY, "mask": "causal"}]}, "window: given 1024 with the mask causal"),
        ({"entries": [{**ENTRY, "config": [128, 48, 8, 2]}]}, "block_n: given 48"),
        ({"entries": [{**ENTRY, "speed": 1}]}, "speed"),
        ({"capability": "nine"}, "nine"),
        ({"operations": {"sorting": SECTION}}, "operations: given 'sorting'; allowed are attention, decode, linear"),
        ({"operations": []}, "items"),
    ],
)
def test_a_file_that_cannot_be_trusted_names_itself(tmp_path, change, message):
    path = tmp_path / "h100.json"
    operations = {"attention": {**SECTION, "entries": change.pop("entries", [ENTRY])}}
    path.write_text(json.dumps({**FILE, "operations": operations, **change}))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: ") as error:
        read_tuned(path)
    assert message in str(error.value)
    assert str(error.value).endswith(
        "Delete the file, or move it away, for the defaults; `skiplab tune` writes a new one"
    )


@pytest.mark.parametrize(("text", "message"), [("{", "h100.json"), ("[]", "schema is 'list'"), ("", "h100.json")])
def test_a_broken_file_names_itself(tmp_path, text, message):
    path = tmp_path / "h100.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_tuned(path)
    section = {name: value for name, value in SECTION.items() if name != "runs"}
    path.write_text(json.dumps({**FILE, "operations": {"attention": section}}))
    with pytest.raises(ValueError, match=r"h100\.json: runs is missing"):
        read_tuned(path)


def test_what_is_shipped_can_be_read():
    shipped = tuned_devices(CONFIGS)
    assert shipped
    for section in (section for one in shipped for section in one.sections.values()):
        assert section.entries
        assert all(run.endswith(".jsonl") for run in section.runs.split(", "))


def test_this_device_comes_before_its_family_and_the_family_before_the_table(files):
    ours, theirs, table = entry(), entry(config=TileConfig(64, 64, 4, 2)), TileConfig(128, 64, 8, 2)
    h200 = tuned(theirs, device="NVIDIA H200")
    assert chosen() == (table, Origin("table"))
    files(h200)
    assert chosen() == (theirs.config, Origin("elsewhere", "NVIDIA H200"))
    files(h200, tuned(ours))
    assert chosen() == (ours.config, Origin("tuned", H100.name))
    assert chosen(bs.causal()) == (table, Origin("table"))
    files(tuned(ours), tuned(entry(), device="NVIDIA H200", capability=(10, 0)))
    assert chosen(gpu=H100._replace(capability=(8, 0)))[1] == Origin("table")
    with pytest.raises(ValueError, match=r"compute capability 8\.0 or higher"):
        chosen(gpu=H100._replace(capability=(7, 5)))


def test_a_file_of_this_device_that_lacks_a_shape_leaves_it_to_the_family(files):
    causal = entry(mask="causal", window=None)
    files(tuned(entry()), tuned(causal, device="NVIDIA H200"))
    assert chosen()[1].how == "tuned"
    assert chosen(bs.causal()) == (causal.config, Origin("elsewhere", "NVIDIA H200"))


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, True),
        ({"head_dim": 192}, True),  # 129 to 256 share their tiles' width
        ({"head_dim": 128}, False),
        ({"head_dim": 257}, False),
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.float32}, False),
        ({"rows": 256 * 132}, False),
        ({"mask": bs.band(1000, 23)}, True),
        ({"mask": bs.band(None, None)}, False),
        ({"mask": bs.sliding_window(1024) | bs.sink(4)}, False),
    ],
)
def test_what_an_entry_is_for(files, changed, found):
    files(tuned(entry()))
    assert (chosen(**changed)[1].how == "tuned") is found


def test_of_several_windows_the_nearest_by_ratio(files):
    sizes = {16: 128, 32: 1024, 64: 4096}
    files(tuned(*(entry(window=window, config=TileConfig(128, n, 8, 2)) for n, window in sizes.items())))
    assert [chosen(bs.sliding_window(w))[0].block_n for w in (1, 128, 360, 370, 1024, 2000, 2100, 10**6)] == [
        16, 16, 16, 32, 32, 32, 64, 64,
    ]  # fmt: skip


def test_of_several_head_sizes_the_least_that_is_not_below(files):
    sizes = {16: 144, 32: 192, 64: 256}
    files(tuned(*(entry(head_dim=d, config=TileConfig(128, n, 8, 2)) for n, d in sizes.items())))
    assert [chosen(head_dim=d)[0].block_n for d in (130, 144, 145, 192, 193, 256)] == [16, 16, 32, 32, 64, 64]


def test_length_classes_are_rows_a_multiprocessor():
    assert [length_class(rows, 100) for rows in (1, 6400, 6401, 25600, 25601)] == [
        "short", "short", "medium", "medium", "long",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (bs.causal(), ("causal", None)),
        (bs.band(None, None), ("causal", None)),
        (bs.band(5, None), ("causal", None)),
        (bs.sliding_window(128), ("window", 128)),
        (bs.band(10, 20), ("window", 31)),
        (bs.band(-5, -5), ("window", 1)),
        (bs.sliding_window(8) & bs.band(-20, 30), ("window", 1)),
        (bs.prefix_lm(3), ("other", None)),
    ],
)
def test_masks_are_told_apart_as_the_kernel_does(mask, kind):
    assert mask_kind(mask) == kind


def test_explain_says_where_the_tiles_are_from(device):
    q = torch.zeros(1, 2, 64, 64, device=device)
    asked = bs.explain(q, q, q, impl="triton", config=(64, 32, 4, 2))
    assert asked.origin == Origin("asked")
    assert "; asked for" in str(asked)
    assert bs.explain(q, q, q, impl="triton").origin is not None
    assert bs.explain(q, q, q, impl="tiled").origin is None


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (Origin("table"), "from the table, not tuned"),
        (Origin("tuned", H100.name), "tuned on NVIDIA H100 80GB HBM3"),
        (Origin("elsewhere", "NVIDIA H200"), "tuned on NVIDIA H200, not on this GPU"),
    ],
)
def test_origins_in_words(origin, words):
    q = torch.zeros(1, 2, 64, 64)
    plan = bs.explain(q, q, q, bs.causal(), impl="triton")
    text = str(replace(plan, prefill=replace(plan.prefill, origin=origin)))
    assert text.splitlines()[3].endswith(f"; {words}")


def tuned_here():
    """(head size, element size, mask kind, tiles), each once, of what is tuned on this machine's GPU."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    entries = [entry for one in tuning.tuned_devices() if one.device == name for entry in one.entries("attention")]
    return sorted({(e.head_dim, e.element_bytes, e.mask, tuple(e.config)) for e in entries})


@pytest.mark.parametrize(("d", "element_bytes", "kind", "tiles"), tuned_here())
def test_what_is_tuned_here_agrees_bit_for_bit_in_all_modes(d, element_bytes, kind, tiles):
    dtype = torch.float32 if element_bytes == 4 else torch.bfloat16
    q, k, v = (torch.randn(1, 4, 500, d, device="cuda", dtype=dtype) for _ in range(3))
    mask = {"causal": bs.causal(), "window": bs.sliding_window(150)}.get(kind, bs.sliding_window(150) | bs.sink(4))
    skips = ("none", "mask", "map", *(("bounds",) if kind != "other" else ()))
    first, *others = (bs.attention(q, k, v, mask, skip=skip, config=tiles) for skip in skips)
    assert all(torch.equal(first, other) for other in others)


def test_decode_takes_tuned_tiles_of_as_many_rows(files):
    config = TileConfig(16, 32, 2, 5)
    fields = {"head_dim": 256, "element_bytes": 2, "config": list(config), "workloads": 1, "at": "decode"}
    one = DecodeEntry.of({**fields, "median_us": 9.0, "table_us": 10.0})
    section = Section("2.11.0", "3.6.0", "a.jsonl", (one,))
    files(Tuned(H100.name, (9, 0), {"decode": section}))
    tuning.find_decode.cache_clear()
    assert tuning.find_decode(H100, 192, 2, 16) == (config, Origin("tuned", H100.name))
    assert tuning.find_decode(H100, 256, 2, 64) == tuning.find_decode(H100, 128, 2, 16) == (None, None)
    q, k = OnGpu(1, 4, 1, 256), OnGpu(1, 2, 4096, 256)
    call = DecodeCall(q, k, k, 1.0, 4096, None, None, None, "triton", False, False)
    assert choose_decode_config(call, H100) == (config, Origin("tuned", H100.name))
    assert choose_decode_config(replace(call, q=OnGpu(1, 4, 1, 512)), H100)[1] == Origin("table")
    assert choose_decode_config(replace(call, q=torch.zeros(1, 4, 1, 256)), H100)[1] == Origin("table")
    tuning.find_decode.cache_clear()


class OnGpu:
    """As much of a tensor on a GPU as a plan asks for."""

    is_cuda, dtype = True, torch.bfloat16

    def __init__(self, *shape):
        self.shape = shape


def test_a_users_own_files_come_before_the_packages(monkeypatch, tmp_path):
    """In the folder that XDG_CONFIG_HOME says, else in ~/.config: read without the lab."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "skiplab"
    mine = TileConfig(64, 16, 4, 2)
    section = {**SECTION, "entries": [{**ENTRY, "head_dim": 128, "config": list(mine)}]}
    folder = user_folder() / "configs"
    folder.mkdir(parents=True)
    (folder / "h100.json").write_text(json.dumps({**FILE, "operations": {"attention": section}}))
    tuning.forget()
    try:
        assert chosen(head_dim=128) == (mine, Origin("tuned", H100.name))
        assert chosen(bs.causal(), head_dim=128)[1] == Origin("tuned", H100.name)  # the package's file has that one
        assert chosen(bs.causal(), head_dim=128)[0] != mine
    finally:
        tuning.forget()
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_folder() == tmp_path / "home" / ".config" / "skiplab"


def special(mask, head_dim, q_len=4096, rows=LONG, gpu=H100):
    return choose_config(gpu, head_dim, torch.bfloat16, mask, rows, q_len=q_len)[0]


def test_tiles_of_the_warp_specialized_kernel_come_before_what_was_tuned_elsewhere_or_for_other_heads(files):
    causal = {"mask": "causal", "window": None}
    files(tuned(entry(head_dim=128, **causal), entry(head_dim=80, **causal)))
    found = {head_dim: special(bs.causal(), head_dim) for head_dim in (48, 64, 72, 80, 96, 112)}
    assert [config.warp_specialized for config in found.values()] == [False, True, True, False, True, False]
    assert found[80] == found[112] == TileConfig(*ENTRY["config"])
    assert special(bs.causal(), 64, q_len=8192) == TileConfig(192, 128, 16, 4)
    assert special(bs.sliding_window(4096), 64, q_len=8192) == found[64] == TileConfig(128, 128, 12, 2)
    assert special(bs.sliding_window(128), 64) == TileConfig(128, 64, 12, 4)
    assert not special(bs.sliding_window(300), 64).warp_specialized
    assert not special(bs.causal(), 64, q_len=2047).warp_specialized
    assert not special(bs.causal(), 72, q_len=0).warp_specialized  # of a call that the plain kernel does
    assert found[72].num_stages == 3 and found[72].plain == TileConfig(128, 128, 8, 2)
    assert not special(bs.causal(), 72, rows=64 * 132).warp_specialized
    assert not special(bs.causal(), 64, gpu=H100._replace(capability=(8, 0))).warp_specialized


def test_a_narrow_window_at_128_takes_them_where_this_device_was_not_tuned(files):
    narrow = entry(head_dim=128, window=256)
    files(tuned(narrow))
    assert special(bs.sliding_window(128), 128) == narrow.config
    files(tuned(narrow, device="NVIDIA H200"))
    assert special(bs.sliding_window(128), 128) == TileConfig(128, 64, 12, 4)
    assert special(bs.sliding_window(300), 128) == narrow.config


def test_what_was_tuned_says_where_it_stands(files, tmp_path):
    path = tmp_path / "h100.json"
    causal = {**ENTRY, "mask": "causal", "window": None}
    path.write_text(json.dumps({**FILE, "operations": {"attention": {**SECTION, "entries": [ENTRY, causal]}}}))
    files(read_tuned(path))
    window, whole = chosen()[1].place, chosen(bs.causal())[1].place
    assert str(window) == f"{path}, entry 1 of attention (head size 256, 16 bits, window 1024, long)"
    assert str(whole) == f"{path}, entry 2 of attention (head size 256, 16 bits, causal, long)"
    files(tuned(entry()))  # made here, of no file
    assert chosen()[1].place is None
