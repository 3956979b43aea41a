"""The product of a weight in tiles on a CPU: Hopper's kernel as Python over torch tensors, a thread for each group."""

import math

import blockskip as bs
import gluon_interpreter
import pytest
import torch
from blockskip.linear.hopper import launch
from blockskip.linear.hopper.plan import HopperConfig, choose_config, of_each_block
from blockskip.linear.known import known

SUMMED_ROWS = 8

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a GPU: test_tiles.py runs the kernel itself"
)
CONFIGS = {8: HopperConfig(8, 256, 6, 3, 4), 16: HopperConfig(16, 256, 4, 2, 3), 32: HopperConfig(32, 256, 4, 3, 5)}
CONFIGS |= {
    64: HopperConfig(64, 256, 3, 2, 7),
    128: HopperConfig(128, 128, 4, 2, 5),
    256: HopperConfig(256, 64, 4, 2, 5),
}


@pytest.fixture(params=["early", "late"])
def copies(request):
    """When the copy engine's copies happen."""
    return request.param


def draw(rows, n, k, dtype=torch.bfloat16, **named):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn((n, k), generator=generator).to(torch.bfloat16)
    x, bias = torch.randn((rows, k), generator=generator).to(dtype), torch.randn(n, generator=generator).to(dtype)
    return x, bs.quantize(weight, **named).packed("tiles"), bias


def multiply(x, w, bias, config, copies):
    """What the launch of `launch.ready_product` writes to memory that held NaN, or any integers."""
    made = [None if one is None else torch.empty(one[0], dtype=one[1]) for one in launch._memory(x, w.shape[0], config)]
    for memory in made:
        if memory is not None:
            memory.fill_(math.nan if memory.is_floating_point() else 0x5A5A5A5A5A5A5A5A)
    for kernel, launched, _ in launch._steps(config, w.group_size, (x, bias, *known(w).kernel_tensors), made):
        gluon_interpreter.interpret(kernel, launched, copies)
    return made[0]


def close(found, x, w, bias, config):
    """Against float64: float32 sums of K products, and one rounding of the result. With few rows the weights are exact,
    with more they are rounded to the activations' dtype."""
    weight = w.dequantize(torch.float32 if config.block_m <= SUMMED_ROWS else x.dtype).double()
    expected = x.double() @ weight.T + (0 if bias is None else bias.double())
    terms = x.double().abs() @ weight.abs().T + (0 if bias is None else bias.double().abs())
    bound = terms * 2**-23 * math.sqrt(x.shape[1]) + expected.abs() * torch.finfo(x.dtype).eps
    assert (found.double() - expected).abs().le(bound).all()


@pytest.mark.parametrize("rows", [1, 8, 9, 20, 64, 70, 150, 300])
@pytest.mark.parametrize("symmetric", [False, True])
def test_tiles_whose_steps_programs_share(copies, rows, symmetric):
    """300 rows are two blocks; 320 weight rows are no multiple of what a program takes at a time."""
    x, w, bias = draw(rows, 320, 768, symmetric=symmetric)
    config = CONFIGS[min(size for size in CONFIGS if size >= min(rows, 256))]
    close(multiply(x, w, bias, config, copies), x, w, bias, config)


@pytest.mark.parametrize(
    ("rows", "programs"), [*((5, n) for n in (1, 2, 3, 5, 6, 12)), *((20, n) for n in (1, 7, 8, 36))]
)
def test_any_number_of_programs_gives_the_sum(copies, rows, programs):
    """4 tiles of 3 steps, of one block of 8 rows or of three: whole tiles, and parts of one or two."""
    x, w, _ = draw(rows, 512, 768)
    config = HopperConfig(8, 256, 3, 2, programs)
    close(multiply(x, w, None, config, copies), x, w, None, config)


@pytest.mark.parametrize("group_size", [64, 128])
@pytest.mark.parametrize("rows", [8, 128, 256])
def test_groups_of(copies, group_size, rows):
    x, w, bias = draw(rows, 384, 512, group_size=group_size)
    config = CONFIGS[rows]
    close(multiply(x, w, bias, config, copies), x, w, bias, config)


def test_float16(copies):
    x, w, bias = draw(8, 384, 512, torch.float16)
    close(multiply(x, w, bias, CONFIGS[8], copies), x, w, bias, CONFIGS[8])


def test_a_row_does_not_depend_on_what_other_rows_there_are_in_its_block(copies):
    x, w, bias = draw(8, 384, 512)
    whole = multiply(x, w, bias, CONFIGS[8], copies)
    x[1:] = math.nan
    assert torch.equal(multiply(x, w, bias, CONFIGS[8], copies)[0], whole[0])


@pytest.mark.parametrize("rows", [8, 64])
def test_a_row_does_not_depend_on_how_many_blocks_there_are(copies, rows):
    """Where activations are named: each block of rows is divided as one alone is."""
    config = CONFIGS[rows]
    x, w, bias = draw(2 * rows + 2, 512, 768)
    many = multiply(x, w, bias, of_each_block(config, len(x)), copies)
    assert torch.equal(many[:rows], multiply(x[:rows], w, bias, config, copies))
    assert torch.equal(many[2 * rows :], multiply(x[2 * rows :], w, bias, config, copies))


@pytest.mark.parametrize("rows", [16, 64])
def test_what_told_that_sums_are_there_is_taken_back(copies, rows):
    x, w, _ = draw(rows, 512, 768)
    made = [
        None if one is None else torch.zeros(one[0], dtype=one[1])
        for one in launch._memory(x, w.shape[0], CONFIGS[rows])
    ]
    for kernel, launched, _ in launch._steps(CONFIGS[rows], 32, (x, None, *known(w).kernel_tensors), made):
        gluon_interpreter.interpret(kernel, launched, copies)
    sums, flags = made[1:]
    assert sums.any() and not (sums.view(torch.int64)[..., 1::2] if flags is None else flags).any()


@pytest.mark.parametrize("rows", [1, 8, 9, 33, 128, 129, 512])
@pytest.mark.parametrize(
    ("n", "k"), [(5376, 21504), (16384, 5376), (43008, 5376), (5376, 8192), (64, 256), (4096, 4096)]
)
def test_what_is_chosen_fits_and_covers_the_weight(rows, n, k):
    config = choose_config(rows, n, k, 132)
    tiles = config.row_groups * (8192 // (256 // config.block_k) + 2048) + config.block_m * config.block_k * 2
    assert config.stages * tiles <= 227 << 10
    assert k % config.block_k == 0 and config.block_m >= min(rows, 128)
    assert 1 <= config.programs <= 132
