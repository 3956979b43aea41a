"""The pages hold what the runs hold: tables in step, links that lead somewhere, and no timed claim without its file."""

from __future__ import annotations

import collections
import functools
import re
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from skiplab.measure import Point
from skiplab.results import gpu_runs, tables
from skiplab.results.cpu import cpu_linear, cpu_model, cpu_prefill
from skiplab.results.declared import ALL, TABLES, TARGETS, show
from skiplab.results.ladder import LADDERS
from skiplab.results.tables import SECTION, MissingRun, entries, fill, gather, markdown
from skiplab.results.topics import LAYERS, TOPICS
from skiplab.store import Run, read_run, read_runs
from skiplab.sweep import AnySweep, LinearSweep, Sweep, Where
from skiplab.workload import model_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("warm_children")
PAGES = [ROOT / name for name in ("README.md", "data/RESULTS.md", "data/TARGETS.md")]
PROSE = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "notebooks").glob("*.py"))]
TIMED = re.compile(r"\d[\d.,]*\s?(?:us|µs|ms|tok/s|tokens/s|GB/s|TFLOP/s)\b")
SOURCED = re.compile(r"data/(?:runs|benchmarks|published)/|\]\((?:\.\./)?(?:data/)?(?:runs|benchmarks)/|published")


@pytest.fixture(scope="module")
def runs():
    return read_runs()


@pytest.fixture(scope="module", autouse=True)
def rated_once():
    """Runs are rated once for a table, though it is made for several tests."""
    rated, kept = tables.rated, {}

    def once(runs, patterns):
        runs = tuple(runs)
        key = tuple(map(id, runs)), tuple(patterns)
        if key not in kept:
            kept[key] = runs, rated(runs, patterns)
        return kept[key][1].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "rated", once)
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_are_in_step_with_the_runs(page, runs):
    text = page.read_text(encoding="utf-8")
    assert SECTION.search(text)
    assert fill(text, page, ALL, runs) == text, f"{page.name}: run `make figures`"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_made_or_says_which_run_is_missing(name, runs):
    table = TABLES[name]
    try:
        text = markdown(name, table, gather(table, runs), PAGES[0])
    except MissingRun as missing:
        assert name in str(missing) and "data/runs/" in str(missing)
        assert not any(f"<!-- table: {name} -->" in page.read_text(encoding="utf-8") for page in PAGES)
        return
    assert "Recorded on" in text and "](data/" in text


def swept(
    sweep: AnySweep, milliseconds: Mapping[str, float], topic: str = "new", start: str = "2126-01-01",
    device: str = "h100-80gb-hbm3",
) -> Run:  # fmt: skip
    """What a sweep would write, every contender as fast as told at any length."""
    rows = [
        {
            "key": point.key, "point": point.key, "axes": point.workload.axes(), "contender": point.contender,
            "status": "ok", "device": "NVIDIA H100", "samples_ns": [int(milliseconds[point.contender] * 1e6)],
            "method": "graph", "flags": [], "work": {"useful_flops": 1e12, "minimal_bytes": 1.0},
        }
        for point in sweep.points()
    ]  # fmt: skip
    roof = {"tflops": 1000.0, "bandwidth_gbps": 3000.0}
    header = {"run_id": "r", "device": {"name": "NVIDIA H100"}, "torch": "2.x", "roof": roof, "start": start}
    return Run(header, tuple(rows), path=ROOT / "data" / "runs" / f"2126-01-01-nvidia-{device}-{topic}.jsonl")


def test_topics_are_recorded_until_time_is_over_and_go_on_then(tmp_path, capsys):
    small = {"q_heads": 1, "kv_heads": 1, "head_dim": 64, "dtype": "float32", "budget_s": 0.01}
    topics = {name: Sweep(("sdpa", "blockskip"), (64, 96), (32,), **small) for name in ("one", "other")}
    gpu_runs.compile_first([*topics["one"].points(), Point(topics["one"].workload(64, 32), "flex-no-such")])
    assert capsys.readouterr().err.startswith("flex-no-such, 64 tokens: ValueError: contender: no 'flex-no-such'")

    assert gpu_runs.record(topics, tmp_path, time.monotonic() - 1, 0, Where("cpu")) == "one"
    assert gpu_runs.record(topics, tmp_path, time.monotonic() + 600, 0, Where("cpu", ("cpu", "cpu"))) == ""
    made = sorted(tmp_path.glob("*.jsonl"))
    assert [path.stem.rsplit("-", 1)[1] for path in made] == ["one", "other"]
    assert all(len(read_run(path).rows) == 4 for path in made)


def test_parts_of_a_topic_are_recorded_into_one_folder(tmp_path):
    """Each of its own contenders, into a file of its own, and the same part again goes on in its own file."""
    small = {"q_heads": 1, "kv_heads": 1, "head_dim": 64, "dtype": "float32", "budget_s": 0.01}
    whole = {"one-d64": Sweep(("sdpa", "sdpa-math", "blockskip"), (64,), (32,), **small)}
    for names in (["sdpa", "blockskip"], ["sdpa-math"], ["sdpa", "blockskip"]):
        part = gpu_runs.of_contenders(whole, names)
        assert gpu_runs.record(part, tmp_path, time.monotonic() + 600, 0, Where("cpu"), parts=True) == ""
    made = {path.stem.partition("-one-d64")[2]: read_run(path) for path in tmp_path.glob("*.jsonl")}
    assert {name: len(run.rows) for name, run in made.items()} == {"-of-sdpa-blockskip": 2, "-of-sdpa-math": 1}
    assert all("-one-d64-" in run.header["run_id"] for run in made.values())


def test_a_file_that_holds_other_rows_too_is_not_a_finished_topic(tmp_path, monkeypatch):
    small = {"q_heads": 1, "kv_heads": 1, "head_dim": 64, "dtype": "float32", "budget_s": 0.01}
    topics = {"one": Sweep(("sdpa",), (64, 96), (32,), **small)}
    rows = [{"point": topics["one"].points()[0].key}, {"point": "of another sweep"}]
    monkeypatch.setattr(gpu_runs, "run_sweep", lambda *_, **__: SimpleNamespace(rows=rows))
    assert gpu_runs.record(topics, tmp_path, time.monotonic() + 600, 0, Where("cpu")) == "one"


def test_a_tables_own_topic_is_found_whole_or_in_parts():
    patterns = TABLES["sliding-d128"].runs
    day = "2126-01-01-nvidia-h100-80gb-hbm3"
    names = [Path(gpu_runs.file_name("prefill-windows-d128", part)).stem for part in ((), ("blockskip", "flex"))]
    assert all(fnmatch(f"{day}-{name}", pattern) for name, pattern in zip(names, patterns, strict=False))
    assert not any(fnmatch(f"{day}-prefill-windows-d128-dense-of-sdpa", pattern) for pattern in patterns[:2])
    for part in ((), ("blockskip", "humming")):
        name = Path(gpu_runs.file_name("linear-int4-fused", part)).stem
        assert fnmatch(f"2126-01-01-nvidia-h200-{name}", TABLES["linear-layers"].runs[0])


@functools.cache
def all_topics(device: str) -> tuple[Run, ...]:
    """What sweeps of all topics would write on a device where everything is as fast."""
    ms = collections.defaultdict(lambda: 1.0)
    return tuple(
        swept(sweep, ms, topic, f"2126-01-01T{i:02d}", device) for i, (topic, sweep) in enumerate(TOPICS.items())
    )


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.source is None])
def test_the_topics_that_are_recorded_on_a_gpu_fill_every_table(name):
    table = TABLES[name]
    made = all_topics("h200" if any("h200" in pattern for pattern in table.runs) else "h100-80gb-hbm3")
    cells = entries(name, table, gather(table, made))
    assert set(cells["head"]) == {item.head for item in table.items}
    beside_peers = cells[cells["apart"] & cells["head"].str.contains("FlexAttention|cuDNN|peer|window")]
    assert name == "sliding-d128-dense" or beside_peers.empty, beside_peers[["head", *table.axes, "file"]]


def test_every_benchmark_of_linear_covers_all_layers_of_the_model_at_all_rows():
    """Fused ones too: a slip hides in the shape that nobody timed."""
    points: dict[tuple, set] = collections.defaultdict(set)
    for name, sweep in TOPICS.items():
        if isinstance(sweep, LinearSweep):
            kind, _, part = name.removeprefix("linear-").rpartition("-")
            assert part in LAYERS
            for one in sweep.workloads():
                points[kind, one.group_size].add((one.out_features, one.in_features, one.rows))
    shapes = model_of("gemma4-31b").chosen()
    rows = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048)
    assert len(points) == 7 and {(43008, 5376), (18432, 5376), (262144, 5376)} < set(shapes)
    for found in points.values():
        assert found == {(*shape, count) for shape in shapes for count in rows}
    peers = {name for sweep in TOPICS.values() for name in sweep.contenders}
    assert {"humming", "humming-int8", "bf16"} <= peers


TIMES_MS = {"blockskip": 1.0, "flex": 1.5, "blockskip-none": 5.0, "sdpa-efficient-mask": 3.0, "sdpa-cudnn": 0.9}
GEMMA = {"q_heads": 32, "kv_heads": 16, "head_dim": 256}


@pytest.mark.parametrize(
    ("name", "axes", "numbers", "missed"),
    [
        ("buffer", {**GEMMA, "q_len": (2048,), "buffer": 4096}, [3.0, 3.0], 2),
        ("sliding-d256", {**GEMMA, "q_len": (512, 32768)}, [1.5, 1.5, 0.9, 0.9], 1),
        ("sliding-d128", {"q_heads": 32, "kv_heads": 8, "q_len": (512, 32768)}, [1.5] * 4, 0),
        (
            "sliding-d128-dense",
            {"q_heads": 32, "kv_heads": 8, "q_len": (512, 1024)},
            [0.9, 0.9, 0.9, 0.9],
            1,
        ),
        ("causal-d128", {"q_heads": 32, "kv_heads": 8, "q_len": (512,)}, [1.5, 0.9], 0),
        ("causal-d512", {"q_heads": 32, "kv_heads": 4, "head_dim": 512, "q_len": (512,)}, [1.5], 1),
        ("modes-causal", {**GEMMA, "q_len": (512, 1024)}, [5.0, 5.0], 0),
    ],
)
def test_tables_find_what_a_sweep_writes_and_judge_it(name, axes, numbers, missed):
    windows = (256, 1024, None) if "d128" in name else (1024, None)
    run = swept(Sweep(contenders=tuple(TIMES_MS), window=windows, **axes), TIMES_MS)
    cells = entries(name, TABLES[name], gather(TABLES[name], [run]))
    ratios = cells[cells["text"].str.contains("×")].sort_values(["order", "q_len", "window"])
    assert ratios["number"].tolist() == pytest.approx(numbers) and ratios["missed"].sum() == missed


def test_useful_flops_are_a_share_of_the_product_in_the_header():
    sweep = Sweep(contenders=("blockskip",), q_len=(8192,), window=(1024, None), q_heads=32, kv_heads=8)
    cells = entries("share", TABLES["share"], gather(TABLES["share"], [swept(sweep, {"blockskip": 2.0})]))
    assert cells["text"].tolist() == ["50\u00a0%", "50\u00a0%"] and cells["missed"].tolist() == [
        True,
        False,
    ]  # 500 of 1,000 TFLOP/s; nothing is asked of causal


def cells_of(name: str, runs):
    """The cells of a table; None where no run has any."""
    try:
        return entries(name, TABLES[name], gather(TABLES[name], runs))
    except MissingRun:
        return None


def test_the_page_of_targets_has_each_once_and_the_readers_tables_none(runs):
    text = (ROOT / "data" / "TARGETS.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    recorded = [name for name, table in TARGETS.tables.items() if table.target and cells_of(name, runs) is not None]
    assert [line.split(" | ")[1] for line in lines] == [TARGETS.tables[name].target for name in recorded]
    assert not any(word in page.read_text(encoding="utf-8") for page in PAGES[:2] for word in ("Asked for", "✗"))
    with pytest.raises(ValueError, match="name: got 'targets'; allowed are sliding-d256"):
        show("targets", runs)


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.name)
def test_a_notebook_that_speaks_of_targets_names_their_page(notebook):
    said = notebook.read_text(encoding="utf-8").split("# %%")
    assert all("data/TARGETS.md" in cell for cell in said if "asked of" in cell or "project ask" in cell)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_mark_stands_in_most_cells_of_a_table(page):
    for section in SECTION.finditer(page.read_text(encoding="utf-8")):
        cells = [cell for line in section[0].splitlines() if line.startswith("| ") for cell in line.split(" | ")[1:]]
        numbers = [cell for cell in cells if re.match(r"[\d.,]+", cell)]
        assert all(2 * sum(mark in cell for cell in numbers) <= len(numbers) for mark in "†‡○□"), section[2]


def test_ratios_are_the_quotients_of_the_times_beside_them(runs):
    table = TABLES["sliding-d256"]
    cells = entries("sliding-d256", table, gather(table, runs))
    times = {(row["head"], row["q_len"]): row["number"] for row in cells.to_dict("records")}
    for length in cells["q_len"].unique():
        ratio = times["FlexAttention", length] / times["blockskip", length]
        assert times["faster than FlexAttention", length] == pytest.approx(ratio)


def test_the_cpus_table_takes_the_least_of_its_samples():
    rows = cpu_prefill()
    assert len(rows) == 27 and rows["median_ms"].between(1, 2000).all() and rows["error"].notna().all()


def test_int4_layers_of_few_rows_on_a_cpu_are_no_slower_than_float_ones():
    rows = cpu_linear().set_index(["contender", "workload"])["median_ms"]
    few = {workload for _, workload in rows.index if int(workload.split()[-1]) <= 8}
    assert few and all(rows["blockskip", workload] <= rows["layer", workload] for workload in few)


def test_a_whole_model_on_a_cpu_is_no_slower_than_transformers():
    rows = cpu_model().set_index(["contender", "phase", "q_len"])["median_ms"]
    assert rows["blockskip", "prompt", 2048] <= rows["transformers", "prompt", 2048]
    assert rows["blockskip", "step", 2048] <= min(rows[name, "step", 2048] for name in ("floats", "transformers"))


def test_a_notebook_asks_for_a_table_by_name(runs):
    assert "Recorded on AMD EPYC" in show("cpu")._repr_html_()
    with pytest.raises(ValueError, match="name: got 'gpu'; allowed are sliding-d256"):
        show("gpu", runs)


def links(path: Path) -> list[str]:
    """What the file links to or names in `data/`, fragments cut off."""
    text = path.read_text(encoding="utf-8")
    named = [f"/{name}" for name in re.findall(r"(?<![\w/])data/(?:runs|benchmarks|published)/[\w.\-]+\w", text)]
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [*named, *(linked if path.suffix == ".md" else [])]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_links_and_named_files_exist(path):
    found = [link for link in links(path) if link]
    missing = [link for link in found if not (ROOT / link[1:] if link[0] == "/" else path.parent / link).exists()]
    assert not missing


def paragraphs(path: Path) -> list[str]:
    """Prose outside tables: of a page its paragraphs and list items, of a notebook its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.split(r"\n\s*\n|\n(?=- )", SECTION.sub("", text))
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n?)*)", text, re.MULTILINE)
    return [re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_a_time_in_prose_says_where_it_is_from(path):
    bare = [text for text in paragraphs(path) if TIMED.search(text) and not SOURCED.search(text)]
    assert not bare


@pytest.mark.parametrize("name", [*TABLES, *LADDERS])
def test_a_notebook_shows_a_caption_of_two_lines_and_notes_that_are_sentences(name, runs):
    try:
        shown = show(name, runs)
    except MissingRun:
        pytest.skip("no run of it is recorded")
    assert len(shown.caption) <= 220  # two lines of 66 em
    assert not [note for note in shown.notes if note[:1].isalpha() and note[0].islower() and name in LADDERS]
    assert "in brackets times the rung before" in shown.caption or name not in LADDERS
