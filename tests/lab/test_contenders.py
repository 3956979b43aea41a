from dataclasses import replace
from pathlib import Path

import blockskip as bs
import pytest
import skiplab
import torch
from skiplab.contenders import (
    Contender,
    Planned,
    Registry,
    attention,
    base,
    contender,
    contenders,
    kernel,
    with_config,
)
from skiplab.measure.verify import verify
from skiplab.sweep import Sweep
from skiplab.workload import DecodeWorkload, LinearWorkload, Workload


@pytest.fixture
def registry(monkeypatch):
    """A copy, so that a test's kernels do not stay."""
    copy = Registry()
    for entry in contenders().values():
        copy.add(entry)
    monkeypatch.setattr(base, "REGISTRY", copy)
    return copy


def test_names_are_those_of_the_lab():
    assert list(contenders())[:6] == [
        "blockskip", "blockskip-none", "blockskip-mask", "blockskip-bounds", "blockskip-map", "sdpa",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no 'sdp'; there are blockskip, .*reference"):
        contender("sdp")


@pytest.mark.parametrize("buffer", [None, 130])
@pytest.mark.parametrize("name", [name for name in contenders() if name != "flex"])
def test_each_is_right_or_says_why_not(name, buffer):
    entry = contender(name)
    workload = Workload(96, buffer, q_heads=4, kv_heads=2, head_dim=32, q_start=None if buffer is None else 0)
    reason = entry.supports(workload, "cpu")
    if reason is not None:
        assert len(reason) > 20
        return
    inputs = workload.inputs("cpu", 0)
    out = entry.build(workload, inputs)(*inputs)
    expected = contender("reference").build(workload, inputs)(*inputs)
    assert torch.allclose(out.float(), expected.float(), atol=0.05)


def test_reasons():
    band, other = Workload(64, mask=bs.sliding_window(8)), Workload(64, mask=bs.document((32, 32)))
    assert "plain causal" in contender("sdpa-causal").supports(band, "cpu")
    assert "band" in contender("blockskip-bounds").supports(other, "cuda")
    assert contender("blockskip-bounds").supports(band, "cuda") is None
    assert contender("sdpa-flash").supports(Workload(64), "cuda") is None


def test_flex_without_a_compiler_is_unsupported(monkeypatch):
    monkeypatch.setattr(attention.shutil, "which", lambda name: None)
    assert "g++" in contender("flex").supports(Workload(64), "cpu")


def test_flex_is_compiled_for_each_workload():
    if contender("flex").supports(Workload(64), "cpu"):
        pytest.skip("no C++ compiler")
    for workload in (
        Workload(150, mask=bs.sliding_window(9), q_heads=2, kv_heads=1, head_dim=64, dtype="float32"),
        Workload(200, mask=bs.causal(), q_heads=1, kv_heads=1, head_dim=64, dtype="float32"),
    ):
        assert verify(workload, contender("flex"), "cpu", 0).passed


def _compiles_only_tiles_up_to(rows, calls):
    """torch.compile for a GPU that larger tiles of FlexAttention do not fit on; what runs is not compiled."""
    real = torch.compile

    def compile(function, **named):
        if function.__name__ != "flex_attention":  # it calls torch.compile itself when it is not compiled
            return real(function, **named)

        def run(*args, kernel_options=None, **options):
            calls.append(kernel_options)
            if (kernel_options or {"BLOCK_M": 128})["BLOCK_M"] > rows:
                raise RuntimeError("No valid triton configs. OutOfMemoryError: out of resource: shared memory")
            return function(*args, **options)

        return run

    return compile


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("operation", ["attention", "decode"])
def test_flex_tries_smaller_tiles_where_its_own_do_not_fit(monkeypatch, operation):
    calls = []
    monkeypatch.setattr(torch, "compile", _compiles_only_tiles_up_to(32, calls))
    shape = {"q_heads": 4, "kv_heads": 2, "head_dim": 32}
    workload = Workload(150, **shape) if operation == "attention" else DecodeWorkload(150, 70, buffer=200, **shape)
    entry = contender("flex", operation)
    call = entry.build(workload, workload.inputs("cpu", 0))
    assert calls == list(attention.FLEX_OPTIONS)
    assert isinstance(call, Planned)
    assert call.plan == {"kernel_options": attention.FLEX_OPTIONS[-1]}
    assert verify(workload, entry, "cpu", 0, fn=call).passed


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_as_torch_compiles_it_has_no_plan(monkeypatch):
    monkeypatch.setattr(torch, "compile", _compiles_only_tiles_up_to(128, []))
    workload = Workload(64, head_dim=16)
    assert not isinstance(contender("flex").build(workload, workload.inputs("cpu", 0)), Planned)
    monkeypatch.setattr(torch, "compile", _compiles_only_tiles_up_to(16, []))
    with pytest.raises(RuntimeError, match="shared memory"):
        contender("flex").build(workload, workload.inputs("cpu", 0))


def test_another_error_of_flex_is_not_hidden(monkeypatch):
    def compile(function, **named):
        def run(*args, **options):
            calls.append(options)
            raise RuntimeError("Triton cannot be found")

        return run

    calls = []
    monkeypatch.setattr(torch, "compile", compile)
    workload = Workload(64, head_dim=16)
    with pytest.raises(RuntimeError, match="cannot be found"):
        contender("flex").build(workload, workload.inputs("cpu", 0))
    assert len(calls) == 1


def test_a_mask_to_be_added_means_the_same_and_repeated_heads_too():
    workload = Workload(70, 100, bs.sliding_window(20), q_heads=6, kv_heads=2, head_dim=32, dtype="float32")
    added = replace(contender("sdpa"), build=attention._sdpa(additive=True), prepare=attention.with_heads_repeated)
    assert verify(workload, added, "cpu", 0).passed
    entry = contender("sdpa-efficient-mask")
    assert entry.prepare(workload, workload.inputs("cpu", 0))[1].shape == (1, 6, 100, 32)
    assert entry.mask_bytes(workload) == 4 * 70 * 100
    assert contender("sdpa").mask_bytes(workload) == 70 * 100
    assert contender("blockskip").mask_bytes(workload) == 0


OUR_PRODUCTS = """
import quick_interpreter
from skiplab.contenders import contender
from skiplab.measure.verify import verify
from skiplab.workload import LinearWorkload

few, many = LinearWorkload(48, 128, rows=2), LinearWorkload(48, 128, rows=20)
for name, workload in (("strided", few), ("scalar", few), ("fused", many), ("dequantize", many)):
    checked = verify(workload, contender(f"blockskip-{name}", "linear"), "cpu", 0)
    assert checked.passed, (name, checked.problem)
    print(name, "is right")
"""


def test_our_products_with_a_choice_left_out_are_right_too(fresh_process):
    """In Triton's interpreter, which a fresh process takes: here their kernels are compiled."""
    done = fresh_process("-c", OUR_PRODUCTS, interpret=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is right") == 4


def test_our_products_say_which_rows_they_take():
    few, many = LinearWorkload(48, 128, rows=8), LinearWorkload(48, 128, rows=9)
    for name, taken, refused in (("strided", few, many), ("scalar", few, many), ("fused", many, few),
                                 ("dequantize", many, few)):  # fmt: skip
        entry = contender(f"blockskip-{name}", "linear")
        assert entry.supports(taken, "cuda") is None
        assert "8 rows" in entry.supports(refused, "cuda")
        assert entry.supports(taken, "cpu")
    whole = LinearWorkload(48, 128, rows=9, dtype="float32")
    assert "float16" in contender("blockskip-fused", "linear").supports(whole, "cuda")


def test_your_own_kernel(registry):
    @kernel("attention", name="mine", supports=lambda w: w.head_dim <= 64)
    def build(workload, inputs):
        """SDPA once more."""
        return contender("sdpa").build(workload, inputs)

    mine = contender("mine")
    assert mine.summary == "SDPA once more."
    assert mine.supports(Workload(8, head_dim=64), "cpu") is None
    assert "does not support" in mine.supports(Workload(8, head_dim=128), "cpu")
    kernel(name="mine", supports=lambda w: "never on Sundays")(build)  # a cell that is run again
    assert contender("mine").supports(Workload(8), "cpu") == "never on Sundays"


def test_the_labs_own_names_and_operations_are_kept(registry):
    with pytest.raises(ValueError, match="'sdpa' is one of the lab's own"):
        kernel(name="sdpa")(lambda workload, inputs: None)
    with pytest.raises(ValueError, match="operation: got 'sorting'"):
        kernel("sorting", name="mine")


def test_only_our_kernels_take_a_config():
    assert with_config("blockskip-map", (64, 32, 4, 2)).config == (64, 32, 4, 2)
    assert isinstance(with_config("sdpa", None), Contender)
    with pytest.raises(ValueError, match="config: sdpa takes none"):
        with_config("sdpa", (64, 32, 4, 2))


def test_the_readmes_kernel(registry, monkeypatch):
    """It is right on every awkward shape, and what is swept is a sweep."""
    blocks = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split("```python\n")
    (block,) = [block.split("```")[0] for block in blocks if "@skiplab.kernel" in block]
    swept, reports = {}, []
    monkeypatch.setattr(skiplab, "sweep", lambda **given: swept.update(given))
    exec(compile(block, "README.md", "exec"), {"print": reports.append})
    (report,) = reports
    assert report.passed, str(report)
    asked = Sweep(**{name: tuple(values) for name, values in swept.items()})
    assert {point.contender for point in asked.points()} == {"blockskip", "mine"}
