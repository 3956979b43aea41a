"""What is made of a mask and kept: it follows the mask's contents, goes with the mask, and is bounded in bytes."""

import copy
import gc
import pickle
import weakref

import blockskip as bs
import pytest
import torch
import torch.nn.functional as F
from blockskip import mask as masks
from blockskip import tilemap as tilemaps
from blockskip.attention.prefill import mask_bits, tiled_plan
from blockskip.mask import SHARED, contents, kept, kinds
from blockskip.mask.kept import Store

WAYS = [
    {"impl": "tiled"},
    {"impl": "reference"},
    {"impl": "triton", "skip": "map"},
    {"impl": "triton", "skip": "mask"},
    {"impl": "triton", "skip": "none"},
]
IDS = ["tiled", "reference", "map", "mask", "none"]


def draw(device, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def table(seed=0, *shape):
    return torch.rand(shape or (24, 40), generator=torch.Generator().manual_seed(seed)) < 0.5


def agrees(call, q, k, kept):
    wanted = F.scaled_dot_product_attention(q.cpu(), k.cpu(), k.cpu(), attn_mask=kept.cpu())
    torch.testing.assert_close(call().cpu(), wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_a_function_whose_data_changed_is_asked_again_by_a_new_mask_and_by_refresh(device, way):
    q, k = draw(device, 1, 2, 24, 16), draw(device, 1, 2, 40, 16)
    data = table().to(device)

    def fn(b, h, q_idx, kv_idx):
        return data.to(q_idx.device)[q_idx, kv_idx]

    def of(mask):
        return lambda: bs.attention(q, k, k, mask, **way)

    mask = bs.mask_mod(fn)
    composed = mask & bs.sink(40)
    for one in (mask, composed):
        agrees(of(one), q, k, data)
        agrees(of(one), q, k, data)
    data.copy_(table(1))
    agrees(of(bs.mask_mod(fn)), q, k, data)
    mask.refresh()
    for one in (mask, composed):
        agrees(of(one), q, k, data)


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("inference", [False, True])
def test_a_dense_mask_filled_in_place_is_another_and_spoils_no_equal_one(device, way, inference):
    q, k = draw(device, 1, 2, 24, 16), draw(device, 1, 2, 40, 16)
    with torch.inference_mode(inference):
        mask, equal = (bs.dense(table().to(device)) for _ in range(2))
        composed = mask | bs.band(-100, None)
        assert mask == equal and hash(mask) == hash(equal)
        for one in (mask, composed, equal):
            agrees(lambda one=one: bs.attention(q, k, k, one, **way), q, k, table())
        mask.tensor.copy_(table(1))
        assert mask != equal and hash(mask) != hash(equal) and mask == bs.dense(table(1))
        for one, now in ((mask, table(1)), (composed, table(1)), (equal, table())):
            agrees(lambda one=one: bs.attention(q, k, k, one, **way), q, k, now)


def test_a_change_that_torch_does_not_count_needs_refresh():
    mask = bs.dense(table())
    before = bs.TileMap.build(mask, 24, 40).kept_pairs
    mask.tensor.data.fill_(True)
    assert bs.TileMap.build(mask, 24, 40).kept_pairs == before != 24 * 40
    mask.refresh()
    assert bs.TileMap.build(mask, 24, 40).kept_pairs == 24 * 40 and mask == bs.dense(torch.ones(24, 40) == 1)


@pytest.mark.parametrize("make", [bs.dense, lambda data: bs.mask_mod(lambda b, h, q, k: data[b, h, q, k])])
def test_tile_maps_and_batches_follow_too(make):
    data = table(0, 2, 1, 24, 40)
    mask = make(data)
    held = mask.tensor if isinstance(mask, masks.Dense) else data
    for seed in (0, 1):
        held.copy_(table(seed, 2, 1, 24, 40))
        if isinstance(mask, masks.MaskMod):
            mask.refresh()
        for batch in range(2):
            for subject, index in ((mask, batch), (mask.for_batch(batch), 0)):
                tilemap = bs.TileMap.build(subject, 24, 40, 8, 8, 0, batch=index)
                assert tilemap.kept_pairs == int(held[batch].sum())
                assert torch.equal(torch.from_numpy(tilemap.tile(1, 2)), held[batch, 0, 8:16, 16:24])
        lengths = torch.tensor([40, 30], dtype=torch.int32)
        q, k = draw("cpu", 2, 1, 24, 16), draw("cpu", 2, 1, 40, 16)
        out = bs.attention(q, k, k, mask, kv_len=lengths, q_start=0)
        wanted = F.scaled_dot_product_attention(q, k, k, held & (torch.arange(40) < lengths.view(2, 1, 1, 1)))
        torch.testing.assert_close(out, wanted)


def test_a_function_is_known_by_its_mask():
    def fn(b, h, q, k):
        return q >= k

    mask = bs.mask_mod(fn)
    assert mask == mask and mask != bs.mask_mod(fn) and (mask & bs.sink(3)) == (mask & bs.sink(3))


def test_a_dense_mask_is_read_once_a_version_and_masks_of_a_size_do_not_collide(monkeypatch):
    read = []
    count_digests(read, monkeypatch)
    some = [bs.dense(table(seed)) for seed in range(50)]
    assert len({hash(mask) for mask in some}) == 50 and len(read) == 50
    assert len(set(some)) == 50 and some[3] != some[4] and len(read) == 50
    some[3].tensor.fill_(False)
    assert some[3] != some[4] and some[3] == some[3] and len(read) == 51


def count_digests(read, monkeypatch):
    blake = contents.hashlib.blake2b
    monkeypatch.setattr(contents.hashlib, "blake2b", lambda *a, **kw: read.append(1) or blake(*a, **kw))


def test_calls_do_not_read_a_dense_mask_whole_to_find_what_is_kept(monkeypatch):
    """The more so as it may lie on a GPU."""
    read = []
    count_digests(read, monkeypatch)
    q, mask = draw("cpu", 1, 1, 24, 16), bs.dense(table(0, 24, 24)) | bs.sliding_window(2)
    for _ in range(3):
        bs.attention(q, q, q, mask)
        bs.TileMap.build(mask, 24, 24)
    assert not read


@pytest.mark.parametrize("make", [
    lambda: bs.dense(table()), lambda: bs.dense(table()) | bs.causal(), lambda: ~bs.dense(table()),
    lambda: bs.mask_mod(lambda b, h, q, k: q >= k), lambda: bs.dense(table(0, 1, 2, 24, 40)),
])  # fmt: skip
def test_what_a_mask_owns_goes_with_it_at_once(device, make):
    """Without Python's collector: device memory does not wait for it."""
    q, k, mask = draw(device, 1, 2, 24, 16), draw(device, 1, 2, 40, 16), make()
    for way in WAYS:
        bs.attention(q, k, k, mask, **way)
    lengths = torch.tensor([30], dtype=torch.int32, device=device)
    bs.attention(q, k, k, mask, kv_len=lengths, q_start=0, impl="triton")
    bs.TileMap.build(mask, 24, 40).to_block_mask()
    assert len(mask.owned) >= 4
    left = weakref.ref(mask), *(weakref.ref(leaf) for leaf in mask.leaves()), weakref.ref(mask.owned)
    gc.disable()
    try:
        del mask
        assert not any(ref() is not None for ref in left)
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="device memory needs CUDA")
def test_no_device_memory_outlives_its_mask():
    q, k = draw("cuda", 1, 2, 1024, 64).half(), draw("cuda", 1, 2, 1024, 64).half()
    bs.attention(q, k, k, bs.causal())
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for seed in range(3):
        for mask in (bs.dense(table(seed, 1024, 1024).cuda()), bs.document([1000, 24]), bs.sink(seed), bs.causal()):
            for way in ({"skip": "map"}, {"skip": "mask"}, {"impl": "tiled"}):
                bs.attention(q, k, k, mask, **way)
        bs.scaled_dot_product_attention(q, k, k, table(seed, 1024, 1024).cuda())
    del mask
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_host_memory_of_equal_masks_is_shared_and_holds_no_mask_of_the_users(device):
    SHARED.clear()
    mask = bs.document([10, 30]) | bs.sink(2)
    first = bs.TileMap.build(mask, 40, 40)
    assert bs.TileMap.build(bs.document([10, 30]) | bs.sink(2), 40, 40) is first and first.mask == mask
    left = [weakref.ref(part) for part in (mask, *mask.leaves())]
    del mask
    assert not any(ref() is not None for ref in left)


def test_stores_are_bounded_in_bytes():
    store = Store(100)
    for i in range(30):
        store.put(i, str(i), 30)
        assert store.nbytes <= 100 and len(store) == min(i + 1, 3)
        assert store.find(0) == "0"  # used last, so it stays the longest
    assert store.find(28) == "28" and store.find(27) is None
    store.put("large", "as it is", 1000)
    assert len(store) == 1 and store.find("large") == "as it is" and store.put("large", "later", 1) == "as it is"


def test_masks_of_many_lengths_stay_in_their_bounds(monkeypatch):
    monkeypatch.setattr(SHARED, "_limit", 1 << 18)
    SHARED.clear()
    monkeypatch.setattr(masks.base, "OWNED_BYTES", 1 << 17)
    k = draw("cpu", 1, 1, 600, 8)
    dense = bs.dense(table(0, 40, 600))
    for length in range(100, 600, 7):
        for mask in (bs.causal(), bs.document([300, 300]) & bs.causal(), dense):
            bs.attention(k[:, :, :40], k, k, mask, kv_len=length)
    assert (1 << 16) < SHARED.nbytes <= 1 << 18 and (1 << 15) < dense.owned.nbytes <= 1 << 17
    SHARED.clear()


@pytest.mark.parametrize(
    "make", [tiled_plan.make_tiled_plan, mask_bits._kept_bits, mask_bits.map_tables, tilemaps._runs]
)
def test_what_is_counted_is_at_least_what_is_held(make):
    """Of each kind, as plain a call as there is."""
    cpu, mask = torch.device("cpu"), bs.dense(table(0, 300, 400))
    arguments = {
        tiled_plan.make_tiled_plan: (300, 400, 0, 0, 0, cpu),
        mask_bits._kept_bits: (300, 400, 0, 400, 1, 1, cpu),
        mask_bits.map_tables: (tilemaps.Grid(300, 400, 64, 64, 0), (1, 1), True, cpu),
        tilemaps._runs: (tilemaps.Grid(300, 400, 64, 64, 0), 0, 0),
    }
    result = make(mask, *arguments[make])
    assert mask.owned.nbytes >= held(result) > 100


def held(value, seen=None) -> int:
    """Bytes of all arrays and tensors inside."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if hasattr(value, "nbytes") and hasattr(value, "shape"):
        return value.nbytes
    inside = value if isinstance(value, tuple | list) else vars(value).values() if hasattr(value, "__dict__") else ()
    return sum(held(item, seen) for item in inside)


def test_copies_own_nothing():
    mask = bs.dense(table()) | bs.sink(2)
    bs.TileMap.build(mask, 24, 40)
    for other in (pickle.loads(pickle.dumps(mask)), copy.copy(mask), copy.deepcopy(mask)):
        assert other == mask and len(other.owned) == 0 and len(mask.owned) == 1


def test_a_repeated_bool_attn_mask_is_planned_once_and_always_compared(monkeypatch):
    q, made = draw("cpu", 1, 2, 24, 16), [table(0, 24, 24)]

    def check(*shape):
        attn_mask = made[0].expand(shape) if shape else made[0]
        agrees(lambda: bs.scaled_dot_product_attention(q, q, q, attn_mask), q, q, made[0])

    check()
    with monkeypatch.context() as again:
        again.setattr(tilemaps, "build_runs", None)
        check()
    made[0].copy_(table(1, 24, 24))
    check()
    made[0].data.copy_(table(2, 24, 24))  # torch does not count that
    check()
    check(1, 1, 24, 24)
    check(1, 2, 24, 24)
    (mask, _), *_ = masks.build._OF_TENSORS[made[0]].values()
    left = weakref.ref(mask)
    del mask
    made.clear()
    assert left() is None


@pytest.mark.parametrize("lengths", [[1 << 40], [5, 1 << 40, 7], [(1 << 60) - 1]])
def test_documents_of_any_length_have_no_table_by_position(lengths):
    mask = bs.document(lengths)
    end = sum(lengths)
    edge = torch.tensor([-1, 0, 4, 5, 6, end - 1, end])
    expected = [[0 <= a < end and 0 <= b < end and document_of(a, lengths) == document_of(b, lengths)
                 for b in edge.tolist()] for a in edge.tolist()]  # fmt: skip
    assert torch.equal(mask.keep(edge[:, None], edge[None]), torch.tensor(expected))
    assert torch.equal(mask.keep(edge.int()[4], edge.int()[:5]), torch.tensor(expected)[4, :5])
    assert bs.TileMap.build(mask, 30, 30, 8, 8).kept_pairs == int(mask.dense(30, 30).sum())
    mod = mask.mod()(torch.tensor(0), torch.tensor(0), torch.arange(30)[:, None], torch.arange(30)[None])
    assert torch.equal(mod, mask.dense(30, 30, 0))
    q = draw("cpu", 1, 1, 30, 16)
    agrees(lambda: bs.attention(q, q, q, mask), q, q, mask.dense(30, 30))


def test_documents_are_found_by_table_and_by_search_alike(monkeypatch):
    lengths = torch.randint(1, 9, (37,), generator=torch.Generator().manual_seed(0)).tolist()
    q = torch.arange(-3, sum(lengths) + 4)
    for count in (1, 2, 3, 4, 36, 37):
        kept = bs.document(lengths[:count]).keep(q[:, None], q[None])
        with monkeypatch.context() as searched:
            searched.setattr(kinds, "LONGEST_TABLE", 0)
            assert torch.equal(bs.document(lengths[:count]).keep(q[:, None], q[None]), kept)


def document_of(position, lengths):
    return sum(position >= sum(lengths[: i + 1]) for i in range(len(lengths)))


def test_the_decorator_says_whose_a_result_is():
    made = []

    @kept.kept_by_mask(lambda value: 10)
    def made_of(mask, number, device):
        made.append((mask, number, device))
        return len(made)

    cpu, meta = torch.device("cpu"), torch.device("meta")
    one, other = bs.document([3, 4]), bs.document([3, 4])
    assert made_of(one, 1, cpu) == made_of(other, 1, cpu) == 1  # host memory, a value: shared
    assert made_of(one, 1, meta) == made_of(one, 1, meta) == 2 and made_of(other, 1, meta) == 3
    assert len(one.owned) == len(other.owned) == 1 and made[0][0] is not one
