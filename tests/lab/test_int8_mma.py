"""The contender on int8 tensor cores: the same product as of activations that are rounded first."""

PRODUCTS = """
import quick_interpreter
import blockskip as bs, torch
from skiplab.contenders.int8_mma import product

device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
generator = torch.Generator().manual_seed(0)
for rows, n, group_size, symmetric in ((1, 70, 32, False), (17, 64, 64, True), (70, 5, 128, False)):
    x, weight = torch.randn((rows, 256), generator=generator), torch.randn((n, 256), generator=generator)
    w = bs.quantize(weight.to(device, dtype), 4, group_size, symmetric).packed("rows")
    x = x.to(device, dtype)
    found = product(x, w)
    rounded = bs.round_activations(x)
    values = (rounded.values.double().unflatten(1, (-1, 32)) * rounded.scales.double()[..., None]).flatten(1)
    expected, terms = values @ w.dequantize(torch.float64).T, values.abs() @ w.dequantize(torch.float64).abs().T
    bound = terms * 2**-22 + expected.abs() * torch.finfo(dtype).eps  # 8 float32 products and sums, a rounded result
    assert ((found.double() - expected).abs() <= bound).all()
    print(rows, "is right")
"""


def test_it_is_the_product_of_rounded_activations(fresh_process):
    """In a fresh process, in Triton's interpreter where there is no GPU."""
    done = fresh_process("-c", PRODUCTS, interpret=True)
    assert done.returncode == 0 and done.stdout.count("is right") == 3, done.stderr[-2000:]
