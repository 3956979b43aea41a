import blockskip as bs
import pytest
import torch
from skiplab.contenders import Contender, Registry, attention, base, contender, contenders, kernel, with_config
from skiplab.verify import verify
from skiplab.workload import Workload


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


@pytest.mark.parametrize("name", [name for name in contenders() if name != "flex"])
def test_each_is_right_or_says_why_not(name):
    entry = contender(name)
    workload = Workload(96, q_heads=4, kv_heads=2, head_dim=32)
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
