"""Packed prompts: their texts, their masks, and who is asked for them in which way."""

import itertools

import blockskip as bs
import pytest
import torch
from skiplab import sweep
from skiplab.contenders import contender
from skiplab.figures.attention import problem
from skiplab.measure.verify import verify
from skiplab.report.rows import axis_text, records
from skiplab.sweep import Sweep
from skiplab.workload import Workload
from skiplab.workload.packed import PackedPrompts, lengths_of, lengths_text, packed_mask, packed_of
from test_flash import attend, install  # noqa: F401 - a fixture

SHAPE = {"q_heads": 6, "kv_heads": 2, "head_dim": 64}
LENGTHS = (40, 1, 29)
BANDS = {"causal": bs.causal(), "window": bs.sliding_window(9), "all": bs.band(None, None)}


def packed(band, **more):
    return Workload(70, mask=packed_mask(LENGTHS, band), **SHAPE, **more)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [("7", (7,)), ("128x384x1024", (128, 384, 1024)), ("512*3", (512,) * 3), ("5x6*2x7", (5, 6, 6, 7))],
)
def test_a_text_names_lengths(text, lengths):
    assert lengths_of(text) == lengths and lengths_of(lengths_text(lengths)) == lengths


@pytest.mark.parametrize(
    "text", ["", "x", "5x", "0", "5x-1", "a", "5*", "64-32:100", "0-5:9", "5-9:0", "5-9", "5-9:1:2"]
)
def test_what_names_none_is_refused(text):
    with pytest.raises(ValueError, match="lengths: got"):
        lengths_of(text)


def test_lengths_are_drawn_from_a_range_until_all_tokens_are_there():
    for seed, total in itertools.product(range(5), (1, 63, 100, 16384)):
        found = lengths_of(f"64-4096:{total}", seed)
        assert sum(found) == total and found == lengths_of(f"64-4096:{total}", seed)
        assert min(found) >= min(64, total) and max(found) < 4096 + 64
    assert lengths_of("64-4096:16384", 1) != lengths_of("64-4096:16384", 2)


def test_a_mask_is_of_packed_prompts_or_not():
    document = bs.document(LENGTHS)
    assert packed_of(document) == PackedPrompts(LENGTHS, bs.band(None, None))
    for mask in (document & bs.causal(), bs.causal() & document):
        assert packed_of(mask) == PackedPrompts(LENGTHS, bs.causal())
    for mask in (bs.causal(), document | bs.causal(), ~document, document & bs.sink(3), document & bs.document([70])):
        assert packed_of(mask) is None


def test_a_workload_says_which_prompts_it_has():
    assert packed(bs.causal()).axes()["packed"] == "3 of 1 to 40"
    assert packed(bs.sliding_window(9)).axes()["packed"] == "3 of 1 to 40, window 9"
    assert str(PackedPrompts((512,) * 4, bs.causal())) == "4 of 512"
    assert Workload.from_axes(packed(bs.causal()).axes()) == packed(bs.causal())
    for other in (Workload(71, mask=packed_mask(LENGTHS, bs.causal())), packed(bs.causal(), batch=2),
                  packed(bs.causal(), q_start=3), Workload(70)):  # fmt: skip
        assert other.packed is None and "packed" not in other.axes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_ours_attends_each_prompt_alone(band, dtype):
    entry, workload = contender("blockskip-varlen"), packed(band, dtype=dtype)
    assert entry.supports(workload, "cpu") is None and "packed prompts" in entry.supports(Workload(70), "cpu")
    assert verify(workload, entry, "cpu", 0).problem == ""


def of_sequences(q, k, v, cu_q, cu_k, longest, left, right):
    """As a varlen kernel: [total, heads, D], each sequence by itself."""
    assert cu_q.dtype == cu_k.dtype == torch.int32 and longest == cu_q.diff().max() and q.is_contiguous()
    out = torch.empty_like(q)
    for first, end in itertools.pairwise(cu_q.tolist()):
        out[first:end] = attend(*(t[None, first:end] for t in (q, k, v)), left, right)[0].to(q.dtype)
    return out


@pytest.fixture
def peers(install, monkeypatch):  # noqa: F811
    """Stand-ins with the signatures of flash_attn_varlen_func, and of torch's operators."""

    def flash3(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
        softmax_scale=None, causal=False, window_size=(-1, -1),
    ):  # fmt: skip
        right = 0 if causal else window_size[1]
        return of_sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, window_size[0], right)

    def flash4(
        q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, causal=False,
        window_size=(None, None),
    ):  # fmt: skip
        return flash3(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, 0, causal=causal, window_size=window_size
        ), None

    def forward(
        q, k, v, cu_q, cu_k, longest_q, longest_k, dropout, causal, debug, *, scale, window_size_left=None,
        window_size_right=None,
    ):  # fmt: skip
        assert scale == q.shape[2] ** -0.5 and dropout == 0.0 and not debug and longest_k == longest_q
        limits = (-1 if side is None else side for side in (window_size_left, window_size_right))
        left, right = (-1, 0) if causal else limits
        return of_sequences(q, k, v, cu_q, cu_k, longest_q, left, right), None

    def varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
        enable_gqa=False,
    ):  # fmt: skip
        assert enable_gqa == (query.shape[1] != key.shape[1])
        return of_sequences(query, key, value, cu_seq_q, cu_seq_k, max_q, *window_size)

    install("fa3_fwd_interface", flash_attn_varlen_func=flash3)
    install("fa3_fwd_config", CONFIG={"build_flags": {}})
    install("flash_attn")
    install("flash_attn.cute", flash_attn_varlen_func=flash4)
    install("torch.nn.attention.varlen", varlen_attn=varlen_attn)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", forward)


@pytest.mark.parametrize("name", ["flash-varlen", "torch-varlen", "fa3-varlen", "fa4-varlen"])
@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_a_peer_is_asked_for_the_same_prompts(peers, name, band):
    entry, workload = contender(name), packed(band)
    assert entry.supports(workload, "cuda") is None
    assert verify(workload, entry, "cpu", 0).problem == ""
    assert "band" in entry.supports(packed(bs.band(3, 4)), "cuda")
    assert "float32" in entry.supports(packed(band, dtype="float32"), "cuda")
    assert "packed prompts" in entry.supports(Workload(70), "cuda")


def test_a_build_of_fa3_without_windows_takes_packed_prompts_without_one(peers, install):  # noqa: F811
    install("fa3_fwd_config", CONFIG={"build_flags": {"FLASHATTENTION_DISABLE_LOCAL": True}})
    entry = contender("fa3-varlen")
    assert "without windows" in entry.supports(packed(bs.sliding_window(9)), "cuda")
    assert entry.supports(packed(bs.causal()), "cuda") is None
    assert entry.supports(packed(bs.band(None, None)), "cuda") is None
    assert entry.supports(packed(bs.sliding_window(max(LENGTHS))), "cuda") is None  # holds all keys: causal


def test_a_sweep_over_packed_prompts(tmp_path):
    run = sweep(
        ["blockskip-varlen", "blockskip"], lengths=["40x1x29", (8, 8)], window=[None, 9], dtype="float32", device="cpu",
        budget_s=0.01, path=tmp_path / "run.jsonl", isolate=False, progress=False, **SHAPE,
    )  # fmt: skip
    table = run.frame()
    assert (table["status"] == "ok").all() and len(table) == 8
    assert set(table["packed"]) == {"3 of 1 to 40", "3 of 1 to 40, window 9", "2 of 8", "2 of 8, window 9"}
    assert set(table["q_len"]) == {70, 16}
    again = Sweep.from_parameters(run.header["parameters"])
    assert "--lengths 40x1x29 --lengths 8x8" in again.command() and "--q-len" not in again.command()


@pytest.mark.parametrize(
    "more", [{"batch": 2}, {"buffer": 100}, {"mask": ("causal()",), "window": None}, {"q_len": (9,)}]
)
def test_packed_prompts_are_one_batch_under_windows(more):
    with pytest.raises(ValueError, match="lengths"):
        Sweep(**{"q_len": None, "lengths": (LENGTHS,), **more})


def test_tables_and_figures_say_which_prompts_instead_of_all_lengths(tmp_path):
    run = sweep(
        ["blockskip-varlen"], lengths=[LENGTHS], window=[9], dtype="float32", device="cpu", budget_s=0.01,
        path=tmp_path / "run.jsonl", isolate=False, progress=False, **SHAPE,
    )  # fmt: skip
    (row,) = records(run.frame())
    assert axis_text("window", row) == "packed, 3 of 1 to 40, window 9" and "packed, 3 of 1" in problem(row)
