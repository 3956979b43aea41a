"""Peers that know windows need CUDA. Here: torch's schemas on meta tensors, and stand-ins with the wheels' signatures.

A stand-in computes what the peer's documentation says, so these tests hold our arguments and layouts against that.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import blockskip as bs
import pytest
import torch
from skiplab.contenders import contender
from skiplab.contenders.flash import window_of
from skiplab.measure.verify import verify
from skiplab.workload import DecodeWorkload, Workload

SHAPE = {"q_heads": 6, "kv_heads": 2, "head_dim": 64}
WORKLOADS = [
    Workload(70, **SHAPE),
    Workload(70, mask=bs.sliding_window(9), **SHAPE),
    Workload(70, mask=bs.sliding_window(1), **SHAPE),
    Workload(70, mask=bs.sliding_window(70), **SHAPE),
    Workload(40, 100, bs.sliding_window(30), **SHAPE),
    Workload(40, 100, bs.sliding_window(30), q_start=0, **SHAPE),
    Workload(40, 100, q_start=0, **SHAPE),
    Workload(40, 100, q_start=17, **SHAPE),
]


def attend(q, k, v, left, right):
    """[B, L, H, D]; query i sees keys from i + Lk - Lq - left to i + Lk - Lq + right; -1 and None: no limit."""
    q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    place = torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2] - torch.arange(k.shape[2])[None]
    keep = torch.ones_like(place, dtype=torch.bool)
    if left not in (-1, None):
        keep &= place <= left
    if right not in (-1, None):
        keep &= place >= -right
    scores = q @ k.repeat_interleave(group, 1).mT * q.shape[-1] ** -0.5
    out = scores.masked_fill(~keep, -torch.inf).softmax(-1) @ v.repeat_interleave(group, 1)
    return out.transpose(1, 2)


@pytest.fixture
def install(monkeypatch):
    """Make a module of that name with these attributes importable."""

    def make(name, **attributes):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    return make


def fa3(build_flags):
    def flash_attn_func(
        q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
        sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        left, right = window_size
        return attend(q, k, v, left, 0 if causal else right).to(q.dtype)

    def flash_attn_with_kvcache(
        q, k_cache, v_cache, k=None, v=None, qv=None, cache_seqlens=None, softmax_scale=None, causal=False,
        window_size=(-1, -1), num_splits=0, return_softmax_lse=False,
    ):  # fmt: skip
        assert k_cache.stride(-1) == v_cache.stride(-1) == 1
        return attend(q, k_cache, v_cache, window_size[0], 0 if causal else window_size[1]).to(q.dtype)

    interface = {"flash_attn_func": flash_attn_func, "flash_attn_with_kvcache": flash_attn_with_kvcache}
    return interface, {"CONFIG": {"build_flags": build_flags}}


@pytest.fixture
def peers(install):
    interface, config = fa3({"FLASHATTENTION_DISABLE_LOCAL": False, "FLASHATTENTION_DISABLE_FP16": True})
    install("fa3_fwd_interface", **interface)
    install("fa3_fwd_config", **config)

    def fa4(q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None)):
        return attend(q, k, v, window_size[0], 0 if causal else window_size[1]).to(q.dtype), None

    install("flash_attn")
    install("flash_attn.cute", flash_attn_func=fa4)

    def prefill(q, k, v, causal=False, kv_layout="NHD", window_left=-1):
        assert kv_layout == "NHD"
        return attend(q[None], k[None], v[None], window_left, 0 if causal else -1)[0].to(q.dtype)

    def decode(q, k, v, kv_layout="NHD", pos_encoding_mode="NONE", use_tensor_cores=False, window_left=-1):
        assert kv_layout == "NHD"
        assert q.is_contiguous()
        assert k.is_contiguous()
        assert v.is_contiguous()
        return attend(q[None, None], k[None], v[None], -1, -1)[0, 0].to(q.dtype)

    install("flashinfer", single_prefill_with_kv_cache=prefill, single_decode_with_kv_cache=decode)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.key())
@pytest.mark.parametrize("name", ["fa3", "fa4", "flashinfer"])
def test_a_peer_is_asked_for_the_same_mask(peers, name, workload):
    assert contender(name).supports(workload, "cuda") is None
    assert verify(workload, contender(name), "cpu", 0).problem == ""


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.key())
def test_torchs_own_are_asked_for_the_same_mask(monkeypatch, workload):
    def flash(q, k, v, cum_q, cum_k, max_q, max_k, dropout, is_causal, debug, *, scale=None, window_size_left=None,
              window_size_right=None):  # fmt: skip
        assert (q.shape[1], k.shape[1]) == (max_q, max_k)
        assert scale == 64**-0.5
        return attend(q, k, v, window_size_left, 0 if is_causal else window_size_right).to(q.dtype), None

    def efficient(
        q, k, v, bias, cu_q, cu_k, max_q, max_k, dropout, custom_mask_type, compute_lse, *, scale, window_size
    ):
        assert q.shape[2] == k.shape[2]  # it knows no groups
        assert custom_mask_type == 2
        return attend(q, k, v, window_size and window_size - 1, 0).to(q.dtype), None

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash)
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", efficient)
    for name in ("flash-window", "efficient-window"):
        assert contender(name).supports(workload, "cuda") is None
        assert verify(workload, contender(name), "cpu", 0).problem == ""


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.key())
@pytest.mark.parametrize("name", ["flash-window", "efficient-window"])
def test_torchs_schemas_take_the_arguments(name, workload):
    inputs = [tensor.to("meta") for tensor in workload.inputs("cpu", 0)]
    arguments = contender(name).prepare(workload, inputs)
    out = contender(name).build(workload, arguments)(*arguments)
    assert (out.shape, out.dtype) == (workload.out_shape, torch.bfloat16)


@pytest.mark.parametrize("name", ["fa3", "flashinfer", "flashinfer-tensor"])
@pytest.mark.parametrize("window", [None, 50, 300])
def test_decode_reads_the_live_keys_alone(peers, name, window):
    workload = DecodeWorkload(200, window, buffer=256, **SHAPE)
    assert contender(name, "decode").supports(workload, "cuda") is None
    assert verify(workload, contender(name, "decode"), "cpu", 0).problem == ""


def test_decode_of_several_queries_by_fa3(peers):
    workload = DecodeWorkload(200, None, 3, buffer=256, **SHAPE)
    assert verify(workload, contender("fa3", "decode"), "cpu", 0).problem == ""
    assert "different keys" in contender("fa3", "decode").supports(DecodeWorkload(200, 50, 3, **SHAPE), "cuda")


@pytest.mark.parametrize(
    ("name", "workload", "words"),
    [
        ("flash-window", Workload(64, mask=bs.document((32, 32)), **SHAPE), "another"),
        ("flash-window", Workload(64, mask=bs.band(8, 8), **SHAPE), "another"),
        ("flash-window", Workload(64, 64, q_start=10, **SHAPE), "behind"),
        ("flash-window", Workload(64, dtype="float32", **SHAPE), "float32"),
        ("flash-window", Workload(64, head_dim=512), "up to 256"),
        ("efficient-window", Workload(64, mask=bs.prefix_lm(4), **SHAPE), "another"),
        ("fa3", Workload(64, dtype="float16", **SHAPE), "without float16"),
        ("fa4", Workload(64, head_dim=260), "up to 256"),
        ("flashinfer", Workload(64, batch=2, **SHAPE), "one request"),
        ("flashinfer", Workload(64, head_dim=96), "head size"),
        ("flashinfer", Workload(64, 32, **SHAPE), "more queries than keys"),
    ],
)
def test_reasons(peers, name, workload, words):
    assert words in contender(name).supports(workload, "cuda")
    assert "CUDA" in contender(name).supports(WORKLOADS[0], "cpu")


def test_a_build_of_fa3_without_windows_does_causal_alone(install):
    interface, config = fa3({"FLASHATTENTION_DISABLE_LOCAL": True, "FLASHATTENTION_DISABLE_FP16": False})
    install("fa3_fwd_interface", **interface)
    install("fa3_fwd_config", **config)
    assert "without windows" in contender("fa3").supports(WORKLOADS[1], "cuda")
    assert contender("fa3").supports(WORKLOADS[0], "cuda") is None
    assert contender("fa3").supports(WORKLOADS[3], "cuda") is None  # the window holds all keys: causal
    assert contender("fa3").supports(Workload(64, dtype="float16", **SHAPE), "cuda") is None


@pytest.mark.parametrize("name", ["fa3", "fa4", "flashinfer"])
def test_what_is_not_installed_says_how_to_get_it(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert "pip install" in contender(name).supports(WORKLOADS[0], "cuda")


def test_a_window_that_holds_all_keys_is_causal():
    assert window_of(WORKLOADS[1]) == 9
    assert window_of(WORKLOADS[3]) is None
    assert window_of(Workload(40, 100, bs.sliding_window(60), q_start=0)) is None
