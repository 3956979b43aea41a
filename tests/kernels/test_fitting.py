"""Sizes that do not fit a device: the error says whose they are, what they need, and the way out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import blockskip as bs
import pytest
import torch
from blockskip.attention.decode import plan as decode_plan
from blockskip.attention.prefill import plan as prefill_plan
from blockskip.config import TileConfig
from blockskip.launching.dispatch import Dispatcher
from blockskip.launching.fitting import fitting
from blockskip.linear import launch, measured
from blockskip.linear.plan import make_plan
from blockskip.tuned.choose import Origin
from blockskip.tuned.files import Place
from triton.runtime.errors import OutOfResources

FILE = Path("/home/me/.config/skiplab/configs/h200.json")
TILES = TileConfig(128, 64, 8, 2)


def origin_of(operation: str) -> Origin:
    return Origin("tuned", "NVIDIA H200", Place(FILE, operation, 3, "what it is for"))


def named(operation: str, command: str) -> str:
    """The whole message, as a pattern."""
    return (
        rf"^{re.escape(str(FILE))}, entry 3 of {operation} \(what it is for\) does not fit: its sizes, .*, need 262144 "
        r"bytes of shared memory a block, this device has 232448\. It was tuned .*: run "
        rf"`{command}` on this one, whose result then counts, or take the entry out of the file, for the defaults$"
    )


@pytest.fixture
def nothing_fits(monkeypatch):
    def find(self, kernel, launch, **options):
        raise OutOfResources(262144, 232448, "shared memory")

    monkeypatch.setattr(Dispatcher, "find", find)


def test_prefill_names_the_entry_of_a_file(nothing_fits, monkeypatch, device):
    chosen = TILES, origin_of("attention"), False
    monkeypatch.setattr(prefill_plan, "_kernel_config", lambda call: chosen)
    q = torch.zeros(1, 2, 16, 64, device=device)
    for _ in range(2):  # what did not fit is not kept
        with pytest.raises(ValueError, match=named("attention", "skiplab tune")) as caught:
            bs.attention(q, q, q, impl="triton")
        assert isinstance(caught.value.__cause__, OutOfResources)
    total = torch.tensor([0, 16], dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match=named("attention", "skiplab tune")):
        bs.attention_varlen(*[torch.zeros(16, 2, 64, device=device)] * 3, total, impl="triton")


def test_decode_names_it_too(nothing_fits, monkeypatch, device):
    chosen = TileConfig(16, 64, 4, 5), origin_of("decode")
    monkeypatch.setattr(decode_plan, "choose_decode_config", lambda call, gpu: chosen)
    q, k = torch.zeros(1, 2, 1, 64, device=device), torch.zeros(1, 2, 256, 64, device=device)
    for _ in range(2):
        with pytest.raises(ValueError, match=named("decode", "skiplab tune decode")):
            bs.decode(q, k, k, impl="triton")


def test_linear_names_it_too(nothing_fits, device):
    w, x = bs.quantize(torch.randn(64, 64, device=device)).packed("rows"), torch.zeros(24, 64, device=device).half()
    plan = replace(make_plan(x, w, "triton", "fused"), origin=origin_of("linear"))
    for _ in range(2):
        with pytest.raises(ValueError, match=named("linear", "skiplab tune linear")):
            launch.linear(x, w, None, plan)


def test_parameters_that_a_kernel_no_longer_has_name_the_entry(monkeypatch):
    entry = SimpleNamespace(kernel="fused", config={"lanes": 4}, out_features=64, in_features=64, rows=8)
    monkeypatch.setattr(measured, "find_linear", lambda *args: (entry, origin_of("linear")))
    w = bs.quantize(torch.randn(64, 64)).packed("rows")
    wanted = rf"^{re.escape(str(FILE))}, entry 3 of linear .*fused was tuned with .*lanes.*run `skiplab tune linear`"
    with pytest.raises(ValueError, match=wanted):
        measured.measured(None, w, 8, "float")


def test_defaults_and_what_was_asked_for_name_the_argument():
    for origin, words in ((None, "asked for"), (Origin("table"), "from the table, not tuned")):
        with (
            pytest.raises(ValueError, match=rf"^config: given .*\({words}\); it needs 9 registers"),
            fitting(TILES, origin),
        ):
            raise OutOfResources(9, 8, "registers")
