"""The matvec without one of its choices: the same results, by the lab's own launch of the shipped kernel."""

from pathlib import Path

import blockskip
import pytest

PRODUCTS = """
import quick_interpreter, blockskip as bs, torch
from blockskip.linear.plan import MatvecConfig
from skiplab.contenders.ablations import FORMS, metadata_as_read, product

generator = torch.Generator().manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
for kind in ((4, 64, False), (8, 32, False), (8, 128, True), (4, 32, False, "uint8"), "groups of 16"):
    x = torch.randn((2, 512), generator=generator).to(device)
    weight = torch.randn((11, 512), generator=generator).to(device)
    if kind == "groups of 16":
        codes = (weight * 30).to(torch.int8).view(11, 2, 16, 16)
        w = bs.QuantizedWeight(codes, weight[:, :32].contiguous() / 30, None, torch.float32)
    else:
        w = bs.quantize(weight, *kind)
    for name in ("strided", "scalar", "both"):
        metadata = metadata_as_read(w, FORMS[name])
        assert metadata.scale.shape == (w.scale.shape if name == "scalar" else w.scale.T.shape)
        for config in (MatvecConfig(1, 32, 1), MatvecConfig(4, 8, 1)):
            found = product(x, w, metadata, config, FORMS[name])
            assert torch.equal(found, product(x, w, metadata_as_read(w, FORMS["none"]), config, FORMS["none"]))
        torch.testing.assert_close(found, bs.linear(x, w, impl="reference"))
    print(kind, "is right")
"""


def test_what_is_left_out_changes_no_result(fresh_process):
    """In a fresh process, in Triton's interpreter where there is no GPU: here kernels may be compiled."""
    done = fresh_process("-c", PRODUCTS, interpret=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("is right") == 5


@pytest.mark.parametrize("word", ["strided", "scalar", "group_stride"])
def test_the_shipped_kernels_know_nothing_of_it(word):
    sources = [path.read_text(encoding="utf-8") for path in (Path(blockskip.__file__).parent / "linear").rglob("*.py")]
    assert sources and not any(word in source for source in sources)
