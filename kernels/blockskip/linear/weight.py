"""A weight in int4 or int8 with metadata for each group: the layouts, and back to floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch

from ..arguments import choice, tensor
from .metadata import SPAN, decode
from .packing import PACKINGS, TILE_BYTES, TILE_COLUMNS, TILE_ROWS, preferred_packing, settled
from .packing import packed as repacked

GROUP_SIZES = (32, 64, 128)
HALF_BLOCK = 16
"""A further group size, of int8 codes with a scale alone: GGUF's Q6_K. `quantize` does not make it."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BLOCK = 32
"""Weights that stand together in memory, and that meet one int8 step of the activations."""
QUANTIZE_ELEMENTS = 1 << 22
"""Weights that are looked at together while quantising, dequantizing, or measuring the error."""
SHIFTS = ("zero", "minimum", "middle")
STEPS = {"scale": "scale_step", "minimum": "minimum_step"}
TENSORS = ("data", "scale", *SHIFTS, *STEPS.values())
"""The tensors of a weight, by name: what a state_dict holds and an operator takes."""

FUNCTIONS: dict[Callable, Callable] = {}
"""torch's functions that take a packed weight, and what does them; `api` enters its own."""


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedWeight:
    """A weight [N, K] in integer codes, with a scale, and one of four kinds of shift, for a group of a row's weights.

    | given | value | from |
    | --- | --- | --- |
    | zero | (code - zero) * scale | `quantize` |
    | nothing | (code - middle code) * scale | `quantize(symmetric=True)`, GGUF Q4_0, Q5_0, Q6_K, Q8_0 |
    | minimum | (code - smallest code) * scale + minimum | `quantize(metadata="uint8")`, GGUF Q4_1, Q5_1, Q4_K, Q5_K |
    | middle | (code - middle code) * scale + middle | torchao |

    The smallest code is 0 for int4 and -128 for int8, the middle one 8 for int4 and 0 for int8.

    data: int4: uint8 [N, K / 2], byte j holds the codes 2j (low) and 2j + 1 (high), each 0..15.
        int8: int8 [N, 2, K / 32, 16]: of each block of 32 codes the first half in plane 0, the other in plane 1.
        Either way 16 contiguous bytes are what one load of the matvec takes.
        int4 in tiles: uint8 [N / 64, K / 256, 64, 128], as `packing` has it.
    scale, zero, minimum, middle: any float dtype, [N, K / group_size], row for row with the weights; in tiles bfloat16
        [N / 64, K / 256, 64, 256 / group_size]. group_size is 32, 64 or 128; or 16, for int8 codes with a scale alone.
    scale_step, minimum_step: float16 (or another float dtype) [N, K / 256]. Where there is one, scale or minimum holds
        codes, each worth a step: uint8, or int8 where scales are negative, too.
    dtype: of the weight that was quantised, and of `dequantize()`.

    Everything is contiguous and on one device. Raises TypeError for dtypes and ValueError for shapes.
    """

    data: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    dtype: torch.dtype
    minimum: torch.Tensor | None = None
    middle: torch.Tensor | None = None
    scale_step: torch.Tensor | None = None
    minimum_step: torch.Tensor | None = None

    def __post_init__(self):
        self._check_data()
        given = self.named_tensors()
        n, k = self.shape
        if self.packing == "tiles":
            allowed = [(*self.data.shape[:3], TILE_COLUMNS // size) for size in GROUP_SIZES]
        else:
            fine = self.bits == 8 and not any(name in given for name in SHIFTS)
            sizes = (HALF_BLOCK, *GROUP_SIZES) if fine else GROUP_SIZES
            allowed = [(n, k // size) for size in sizes if k % size == 0]
        for name in ("scale", *SHIFTS):
            t = given.get(name)
            if t is None:
                continue
            encoded = STEPS.get(name) in given
            if t.dtype not in (torch.uint8, torch.int8) if encoded else not t.is_floating_point():
                needed = f"uint8, for {STEPS[name]}, is needed, or int8" if encoded else "a float dtype is needed"
                raise TypeError(f"{name}: given {t.dtype}; {needed}")
            if tuple(t.shape) not in allowed or t.shape != self.scale.shape:
                raise ValueError(f"{name}: given shape {tuple(t.shape)}; allowed are {', '.join(map(str, allowed))}")
        if sum(name in given for name in SHIFTS) > 1:
            raise ValueError(
                f"zero: given {', '.join(n for n in SHIFTS if n in given)}; one of them at most is allowed"
            )
        self._check_steps(given)
        self._check_tiles(given)
        for name, t in given.items():
            if t.device != self.device:
                raise ValueError(f"{name}: is on {t.device}; must be on data's {self.device}")
            if not t.is_contiguous():
                raise ValueError(f"{name}: is not contiguous; call .contiguous()")

    def _check_data(self):
        for name, t in {"data": self.data, "scale": self.scale, **self.named_tensors()}.items():
            tensor(name, t)
        _check_float(self.dtype)
        if self.data.dtype not in (torch.uint8, torch.int8):
            raise TypeError(f"data: given {self.data.dtype}; uint8 (int4 codes) or int8 is needed")
        n, k = self.shape
        if self.packing == "tiles":
            shape = (n // TILE_ROWS, k // TILE_COLUMNS, TILE_ROWS, TILE_BYTES)
        else:
            shape = (n, k // 2) if self.bits == 4 else (n, 2, k // BLOCK, 16)
        if tuple(self.data.shape) != shape or k % BLOCK or not k:
            raise ValueError(
                f"data: given shape {tuple(self.data.shape)}; [N, K / 2] uint8, [N, 2, K / 32, 16] int8 or, in tiles, "
                "[N / 64, K / 256, 64, 128] uint8 is needed"
            )

    def _check_tiles(self, given: dict[str, torch.Tensor]):
        for name in given if self.packing == "tiles" else ():
            if name not in ("data", "scale", "zero"):
                raise ValueError(f"{name}: given with a weight in tiles, which holds scales and zero points alone")

    def _check_steps(self, given: dict[str, torch.Tensor]):
        n, k = self.shape
        for name, step in STEPS.items():
            if (t := given.get(step)) is None:
                continue
            if name not in given:
                raise ValueError(f"{step}: given without {name}; they go together")
            if not t.is_floating_point():
                raise TypeError(f"{step}: given {t.dtype}; a float dtype is needed")
            if k % SPAN or tuple(t.shape) != (n, k // SPAN):
                raise ValueError(f"{step}: given shape {tuple(t.shape)}; [N, K / {SPAN}] of {(n, k)} is needed")

    @property
    def bits(self) -> int:
        return 4 if self.data.dtype == torch.uint8 else 8

    @property
    def packing(self) -> str:
        """How it lies in memory: "rows" or "tiles"; see `packing`."""
        return "tiles" if self.bits == 4 and self.data.ndim == 4 else "rows"

    @property
    def shape(self) -> torch.Size:
        """[N, K], as the weight of nn.Linear: out_features, in_features."""
        n = self.data.shape[0]
        if self.packing == "tiles":
            return torch.Size((n * self.data.shape[2], self.data.shape[1] * self.data.shape[3] * 2))
        return torch.Size((n, self.data.numel() * 8 // self.bits // n if n else 0))

    @property
    def group_size(self) -> int:
        return TILE_COLUMNS // self.scale.shape[3] if self.packing == "tiles" else self.shape[1] // self.scale.shape[1]

    @property
    def symmetric(self) -> bool:
        return self.zero is None and self.offset is None

    @property
    def encoded(self) -> bool:
        """Whether metadata is 8-bit codes with a step."""
        return self.scale_step is not None or self.minimum_step is not None

    @property
    def centre(self) -> int:
        """The code that stands for the offset, or for 0 where there is none, if zero points do not say."""
        if self.minimum is not None:
            return 0 if self.bits == 4 else -128
        return 8 if self.bits == 4 else 0

    @property
    def offset(self) -> torch.Tensor | None:
        """What is added to (code - centre) * scale: minimum or middle."""
        return self.middle if self.minimum is None else self.minimum

    @property
    def device(self) -> torch.device:
        return self.data.device

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """Those of `TENSORS` that there are."""
        return {name: t for name in TENSORS if (t := getattr(self, name)) is not None}

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """data, scale and what else there is."""
        return tuple(self.named_tensors().values())

    @property
    def nbytes(self) -> int:
        """Bytes of codes and metadata."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and metadata for each weight; 5.0 for int4, group 32, asymmetric."""
        return self.nbytes * 8 / self.shape.numel()

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same weight, bit for bit, on a device; on another one than before in the packing which that prefers.

        A Hopper GPU prefers tiles for a weight that can lie so (`packed` says which can), any other device rows.
        """
        device, w = torch.device(device), self
        if self.device.type == "cuda" and device.type != "cuda":  # the GPU packs in a hundredth of the time
            w = self.packed(preferred_packing(self, device))
        moved = w.each(lambda t: t.to(device))
        return moved if moved.device == self.device else settled(moved)

    def clone(self) -> QuantizedWeight:
        """A copy in memory of its own."""
        return self.each(torch.clone)

    def packed(self, packing: str) -> QuantizedWeight:
        """The same weight, bit for bit, in rows or in tiles: this one if it lies so, else one in memory of its own.

        It stays so until it comes to another device (`to`). packing: rows | tiles. Tiles are what Hopper's product
        kernel reads: int4 with a bfloat16 scale, and a whole zero point or none, a group; N a multiple of 64 and K one
        of 256. Raises ValueError for any other.
        """
        choice("packing", packing, PACKINGS)
        return self if packing == self.packing else repacked(self, packing)

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        """Rows start..stop-1, sharing memory; of a weight in tiles, other than whole tiles come as a copy in rows."""
        if self.packing == "rows":
            return self.each(lambda t: t[start:stop])
        first, last = start // TILE_ROWS, -(-stop // TILE_ROWS)
        tiles = self.each(lambda t: t[first:last])
        if start % TILE_ROWS == 0 and stop % TILE_ROWS == 0:
            return tiles
        return tiles.packed("rows").rows(start - first * TILE_ROWS, stop - first * TILE_ROWS)

    @classmethod
    def stacked(cls, weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
        """Weights of one input as one, [sum of N, K]: the rows of each below those of the one before, bit for bit.

        In memory of its own, in the packing that they share; else in the one that their device prefers. Raises
        TypeError for other kinds, ValueError where there is none or they differ in K, bits, metadata, dtype or device.
        """
        for i, w in enumerate(weights):
            if not isinstance(w, QuantizedWeight):
                raise TypeError(f"weights: item {i} is {type(w).__name__}; a QuantizedWeight is needed")
        if not weights:
            raise ValueError("weights: given none; at least one is needed")
        alike = len({w.packing for w in weights}) == 1
        parts = list(weights) if alike else [w.packed("rows") for w in weights]
        first = parts[0]
        for i, w in enumerate(parts):
            if _layout_of(w) != _layout_of(first):
                raise ValueError(f"weights: item {i} is {weights[i]!r}; alike are needed, and item 0 is {weights[0]!r}")
        tensors = [w.named_tensors() for w in parts]
        made: dict = {name: torch.cat([each[name] for each in tensors]) for name in tensors[0]}
        stacked = replace(first, **made)
        return stacked if alike else settled(stacked)

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> QuantizedWeight:
        """The weight whose tensors `change` makes of this one's."""
        changed: dict = {name: change(t) for name, t in self.named_tensors().items()}
        return replace(self, **changed)

    def blocks(self, elements: int) -> Iterator[tuple[slice, QuantizedWeight]]:
        """Row ranges of at most `elements` weights each, or one row, or one row of tiles; and their weights."""
        least = TILE_ROWS * self.shape[1] if self.packing == "tiles" else 1
        for rows in row_blocks(self.shape, max(elements, least)):
            yield rows, self.rows(rows.start, rows.stop)

    def planes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes as they lie in rows, [N, K / 2] each: low and high nibbles, or the halves of the blocks of 32."""
        if self.packing == "tiles":
            return self.packed("rows").planes()
        if self.bits == 4:
            return self.data & 15, self.data >> 4
        return self.data[:, 0].flatten(1), self.data[:, 1].flatten(1)

    def codes(self) -> torch.Tensor:
        """The codes in their natural order: uint8 or int8 [N, K]."""
        run = 1 if self.bits == 4 else 16
        return torch.stack([plane.unflatten(1, (-1, run)) for plane in self.planes()], 2).flatten(1)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The values as [N, K]: computed in float32, or float64 if that is asked for, then rounded to `dtype`.

        dtype: any float dtype; None takes that of the weight that was quantised.
        """
        dtype = self.dtype if dtype is None else dtype
        _check_float(dtype)
        out = torch.empty(self.shape, dtype=dtype, device=self.device)
        for rows, part in self.blocks(QUANTIZE_ELEMENTS):
            out[rows] = part._dequantize(torch.float64 if dtype == torch.float64 else torch.float32)
        return out

    def _dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        part = self.packed("rows")
        return part.values(part.codes(), dtype)

    def values(self, codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The values in `dtype`, of `codes()`, or of one of `planes()` where they have the same groups."""
        if self.packing == "tiles":
            return self.packed("rows").values(codes, dtype)
        scale = decode(self.scale, self.scale_step, dtype).unsqueeze(-1)
        zero = self.centre if self.zero is None else self.zero.to(dtype).unsqueeze(-1)
        values = codes.to(dtype).unflatten(1, (self.scale.shape[1], -1)).sub_(zero).mul_(scale)
        if self.offset is not None:
            step = self.minimum_step if self.middle is None else None
            values += decode(self.offset, step, dtype).unsqueeze(-1)
        return values.flatten(1)

    def plane_values(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """The values in `dtype` of each of `planes()`, as they lie there."""
        for index, codes in enumerate(self.planes()):
            of_plane = self
            if self.group_size == HALF_BLOCK:  # a plane holds every second group
                of_plane = replace(self, scale=self.scale[:, index::2].contiguous())
            yield of_plane.values(codes, dtype)

    def error(self, weight: torch.Tensor) -> float:
        """Signal-to-noise ratio in dB against the weight [N, K] that this stands for; inf where they are equal."""
        tensor("weight", weight)
        if tuple(weight.shape) != tuple(self.shape):
            raise ValueError(f"weight: given shape {tuple(weight.shape)}; must be {tuple(self.shape)}")
        signal = noise = 0.0
        for rows, part in self.blocks(QUANTIZE_ELEMENTS):
            truth = weight[rows].detach().to(self.device, torch.float64)
            signal += truth.square().sum().item()
            noise += (truth - part._dequantize(torch.float64)).square().sum().item()
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """torch.nn.functional.linear is `blockskip.linear`; no other function of torch takes a packed weight.

        A class that has this method is no plain tensor to torch's modules: they call their linear layers then, where
        they would hand the weights to a kernel of their own (nn.TransformerEncoderLayer).
        """
        if func in FUNCTIONS:
            return FUNCTIONS[func](*args, **(kwargs or {}))
        name = getattr(func, "__name__", func)
        raise TypeError(f"{name}: given a QuantizedWeight, which no function of torch takes; use .dequantize()")

    def __getstate__(self) -> dict:
        """What copies and files hold: the fields, and not what is kept between calls (`known`)."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def __repr__(self):
        kind = "symmetric" if self.symmetric else "asymmetric"
        kind += f", {'u' * (self.scale.dtype != torch.int8)}int8 metadata" if self.encoded else ""
        kind += ", in tiles" if self.packing == "tiles" else ""
        size = "x".join(map(str, self.shape))
        return (
            f"QuantizedWeight({size}, int{self.bits}, groups of {self.group_size}, {kind}, "
            f"{self.bits_per_weight:g} bits a weight, {self.device})"
        )


def _layout_of(w: QuantizedWeight) -> tuple:
    """What weights have in common whose tensors may be concatenated."""
    return w.dtype, w.device, [(name, t.dtype, t.shape[1:]) for name, t in w.named_tensors().items()]


def _check_float(dtype: torch.dtype) -> None:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype: given {dtype!r}; a float dtype is needed")


def row_blocks(shape: torch.Size, elements: int) -> Iterator[slice]:
    """Row ranges of [N, K] with about `elements` elements each: whole tiles of 64 rows, or fewer rows where K is long.

    So a product's columns begin at addresses that its kernels like, and a weight in tiles is cut between them.
    """
    step = max(1, elements // shape[1])
    step = step // TILE_ROWS * TILE_ROWS or step
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [N, K], whole numbers of any dtype, to `QuantizedWeight.data`."""
    if bits == 4:
        pairs = codes.to(torch.uint8)
        return pairs[:, ::2] | pairs[:, 1::2] << 4
    return codes.to(torch.int8).unflatten(1, (-1, 2, 16)).transpose(1, 2).contiguous()
