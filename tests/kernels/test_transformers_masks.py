"""What blockskip sees of transformers' masks, element by element, and what its attention makes of them."""

from types import SimpleNamespace

import blockskip as bs
import pytest
import torch
from blockskip.integrations.transformers.attention import attend
from blockskip.integrations.transformers.masks import prepare
from tiny_models import off
from transformers import masking_utils as theirs

# (q_length, kv_length, q_offset, kv_offset) of prompts, of steps and chunks behind a full
# cache, behind the last keys of a window, and in a buffer that is not full.
SIZES = [(12, 12, 0, 0), (1, 12, 11, 0), (4, 12, 8, 0), (3, 9, 20, 14), (1, 7, 20, 14), (3, 16, 5, 0), (1, 16, 9, 0)]
CONFIG = SimpleNamespace(sliding_window=6, attention_chunk_size=5)
GROUPS = torch.tensor([-1, 0, 0, 0, -1, -1, 1, 1, 1, 1] + [-1] * 20)[None].expand(3, -1)
FUNCTIONS = {
    "causal": (theirs.causal_mask_function, {}),
    "window": (theirs.sliding_window_causal_mask_function(6), {"local_size": 6}),
    "both ways": (theirs.bidirectional_mask_function, {"allow_is_bidirectional_skip": True}),
    "window both ways": (
        theirs.sliding_window_bidirectional_mask_function(6),
        {"local_size": 6, "allow_is_bidirectional_skip": True, "allow_is_causal_skip": False},
    ),
    "chunks": (theirs.chunked_causal_mask_function(5, torch.tensor([0, 2, 3])), {"local_size": 5}),
    "images": (
        theirs.or_masks(theirs.sliding_window_causal_mask_function(6), theirs.blockwise_overlay(GROUPS)),
        {"local_size": 6, "allow_is_causal_skip": False},
    ),
    "the user's": (
        theirs.and_masks(theirs.causal_mask_function, lambda b, h, q, k: (k % 3 != 0) | (q == k)),
        {"use_vmap": True, "allow_is_causal_skip": False},
    ),
}
PADDINGS = {
    "none": (),
    "left": ((0, 0), (1, slice(0, 5)), (2, slice(0, 9))),
    "right": ((0, slice(9, None)), (1, slice(11, None))),
    "gaps": ((0, slice(3, 6)), (2, slice(7, 8))),
    "a row of nothing": ((1, slice(None)),),
}


def reference(q, k, v, kept, sinks=None, softcap=None):
    """float64 [B, Lq, Hq, D]; a query that sees nothing gets 0."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1).double() for x in (k, v))
    scores = q.double() @ k.mT * q.shape[3] ** -0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~kept, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], 3)
    weights = scores.softmax(3).nan_to_num(0)[..., : k.shape[2]]
    return (weights @ v).transpose(1, 2)


def tensors(q_len, keys):
    generator = torch.Generator("cpu").manual_seed(2)
    return [torch.randn(3, h, n, 16, generator=generator) for h, n in ((4, q_len), (2, keys), (2, keys))]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_masks_are_transformers_masks(function, padding, sizes):
    """For every query that is a token; 5e-6 is some 40 roundings of float32 to values of about 1."""
    fn, options = FUNCTIONS[function]
    q_len, keys, q_offset, kv_offset = sizes
    attention_mask = None
    if padding != "none":
        attention_mask = torch.ones(3, q_offset + q_len, dtype=torch.bool)
        for place in PADDINGS[padding]:
            attention_mask[place] = False
    arguments = {
        "batch_size": 3, "q_length": q_len, "kv_length": keys, "q_offset": q_offset, "kv_offset": kv_offset,
        "mask_function": fn, "attention_mask": attention_mask, "config": CONFIG, **options,
    }  # fmt: skip
    kept = theirs.sdpa_mask(**arguments | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    mask = prepare(**arguments)
    q, k, v = tensors(q_len, keys)
    found = attend(None, q, k, v, mask)[0]
    real = torch.ones(3, q_len, dtype=torch.bool) if attention_mask is None else attention_mask[:, q_offset:]
    assert off(found[real], reference(q, k, v, kept)[real]) <= 5e-6
    if function in ("causal", "window") and padding != "gaps":
        assert isinstance(mask.mask, bs.Band)  # never a tensor of all pairs


def test_offsets_on_the_device():
    """As a static cache hands them over, and a special one whose queries stand past its keys."""
    q, k, v = tensors(1, 16)
    for offset, attention_mask in (
        (torch.tensor(9), None),
        (torch.tensor(9), torch.arange(10)[None] >= torch.arange(3)[:, None]),
    ):
        arguments = {
            "batch_size": 3,
            "q_length": 1,
            "kv_length": 16,
            "q_offset": offset,
            "attention_mask": attention_mask,
        }
        mask = prepare(**arguments, mask_function=theirs.causal_mask_function)
        assert isinstance(mask.mask, bs.Band) and mask.kv_len.dtype == torch.int32
        kept = theirs.sdpa_mask(**arguments, allow_is_causal_skip=False)
        assert off(attend(None, q, k, v, mask)[0], reference(q, k, v, kept)) <= 5e-6
    both = theirs.bidirectional_mask_function, {"allow_is_bidirectional_skip": True}
    mask = prepare(3, 1, 16, torch.tensor(9), mask_function=both[0], **both[1])
    assert off(attend(None, q, k, v, mask)[0], reference(q, k, v, torch.ones(1, 16, dtype=torch.bool))) <= 5e-6
    past = {"batch_size": 3, "q_length": 2, "kv_length": 7, "q_offset": 8}
    q, k, v = tensors(2, 7)
    found = attend(None, q, k, v, prepare(**past))[0]
    assert off(found, reference(q, k, v, theirs.sdpa_mask(**past, allow_is_causal_skip=False))) <= 5e-6


@pytest.mark.parametrize("function", ["causal", "the user's", "both ways"])
def test_the_last_queries_of_a_mask(function):
    fn, options = FUNCTIONS[function]
    mask = prepare(3, 12, 12, mask_function=fn, config=CONFIG, **options)
    q, k, v = tensors(12, 12)
    found = attend(None, q[:, :, -2:], k, v, mask[:, :, slice(-2, None), :])[0]
    assert off(found, attend(None, q, k, v, mask)[0][:, -2:].double()) <= 5e-6
    for index in (0, (slice(None), slice(None), slice(0, 2), slice(None)), (slice(1), *[slice(None)] * 3)):
        with pytest.raises(ValueError, match="index: given"):
            mask[index]


def test_modules_without_masks():
    """An encoder's layers see everything; causal ones what comes before, within their window if they have one."""
    q, k, v = tensors(12, 12)
    everything = torch.ones(12, 12, dtype=torch.bool)
    encoder, decoder = SimpleNamespace(is_causal=False), SimpleNamespace(is_causal=True)
    near = everything.tril() & everything.triu(-5)
    for module, options, kept in (
        (encoder, {}, everything),
        (decoder, {}, everything.tril()),
        (decoder, {"is_causal": False}, everything),
        (decoder, {"sliding_window": 6}, near),
    ):
        assert off(attend(module, q, k, v, None, **options)[0], reference(q, k, v, kept)) <= 5e-6
    last = attend(decoder, q[:, :, -1:], k, v, None)[0]
    assert off(last, reference(q, k, v, everything)[:, -1:]) <= 5e-6
    with pytest.raises(ValueError, match="attention_mask: None for 3 causal queries of 12 keys"):
        attend(decoder, q[:, :, :3], k, v, None)


def test_errors():
    q, k, v = tensors(3, 3)
    four = torch.ones(3, 1, 3, 3, dtype=torch.bool)
    for options in ({"s_aux": torch.zeros(4)}, {"softcap": 2.0}):
        with pytest.raises(ValueError, match="a 4-D attention_mask with attention sinks or softcap"):
            attend(None, q, k, v, four, **options)
    with pytest.raises(ValueError, match="does not support position_bias"):
        attend(None, q, k, v, None, position_bias=torch.zeros(3))
    with pytest.raises(ValueError, match="attention_mask: prepared for 3 queries and 4 keys; the layer has 3 and 3"):
        attend(None, q, k, v, prepare(3, 3, 4))
