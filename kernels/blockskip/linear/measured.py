"""From an entry of `tuned` to the kernel and sizes of a product, as the plan takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..gpu import Gpu
from ..tuned.choose import Origin, find_linear
from ..tuned.linear import Form
from .configs import FusedConfig, MatvecConfig, fused_splits
from .hopper.plan import HopperConfig, programs_of
from .weight import QuantizedWeight

Config = MatvecConfig | FusedConfig | HopperConfig | None
CONFIGS: Mapping[tuple[str, str], type[MatvecConfig | FusedConfig | HopperConfig]] = {
    ("matvec", "rows"): MatvecConfig,
    ("fused", "rows"): FusedConfig,
    ("fused", "tiles"): HopperConfig,
}
"""What holds the sizes of a kernel, by its name and the weight's packing; others have none."""


@dataclass(frozen=True)
class Measured:
    """The fastest kernel, its sizes, shares along K, and where that is from."""

    kernel: str
    config: Config
    splits: int
    origin: Origin
    reason: str


def form_of(w: QuantizedWeight, activations: str) -> Form:
    """The form of a weight, by which entries are chosen beside its shape; activations: int8 or float."""
    return Form(w.bits, w.packing, w.group_size, w.symmetric, w.encoded, activations)


def measured(gpu: Gpu, w: QuantizedWeight, rows: int, activations: str) -> Measured | None:
    """What was measured to be fastest on this GPU for so many rows of activations; None where nothing like it was.

    For a shape that was not measured the sizes are those of the nearest that was (`tuned.linear.find`), and K is
    divided anew. ValueError for an entry that this version's kernels do not have.
    """
    entry, origin = find_linear(gpu, form_of(w, activations), *w.shape, rows)
    if entry is None or origin is None:
        return None
    try:
        config, splits = config_of(entry.kernel, w.packing, entry.config)
    except ValueError as error:
        raise ValueError(f"{origin.place}: {error}. {origin.place.way_out}" if origin.place else str(error)) from error
    if (entry.out_features, entry.in_features, entry.rows) != (*w.shape, rows):
        config, splits = _divided_anew(config, w, rows, gpu)
    at = f"{entry.out_features} x {entry.in_features} with {entry.rows} row{'s' if entry.rows > 1 else ''}"
    return Measured(entry.kernel, config, splits, origin, f"the fastest at {at}")


def config_of(kernel: str, packing: str, values: Mapping[str, Any]) -> tuple[Config, int]:
    """(sizes, shares along K) of a kernel by the names of its parameters; ValueError for what it does not have."""
    kind, values = CONFIGS.get((kernel, packing)), dict(values)
    splits = values.pop("splits", 1)
    if kind is None and (values or kernel != "dequantize"):
        raise ValueError(f"linear: was tuned for {kernel} with {values}, which this version does not have; tune anew")
    try:
        return None if kind is None else kind(**values), splits
    except (TypeError, ValueError) as error:
        raise ValueError(f"linear: {kernel} was tuned with {values}; tune anew ({error})") from error


def values_of(config: Config, splits: int = 1) -> dict[str, Any]:
    """What `config_of` makes sizes of."""
    if config is None:
        return {}
    return {**asdict(config), "splits": splits} if isinstance(config, FusedConfig) else asdict(config)


def numbers_of(config: Config, splits: int = 1) -> tuple[int, ...]:
    """`values_of` as the lab's rows hold them: numbers alone, in the order of the parameters; a limit that is not set,
    which comes last, is left out."""
    return tuple(value for value in values_of(config, splits).values() if value is not None)


def from_numbers(kernel: str, packing: str, numbers: Sequence[int]) -> dict[str, int]:
    """The parameters by name that `numbers_of` made numbers of."""
    kind = CONFIGS.get((kernel, packing))
    if kind is None:
        return {}
    names = [one.name for one in fields(kind)]
    names += ["splits"] if kind is FusedConfig else []
    return dict(zip(names[: len(numbers)], numbers, strict=True))


def _divided_anew(config: Config, w: QuantizedWeight, rows: int, gpu: Gpu) -> tuple[Config, int]:
    """The same sizes for another shape, with the work divided among programs anew."""
    if isinstance(config, FusedConfig):
        return config, fused_splits(rows, w, config, gpu.sms)
    if not isinstance(config, HopperConfig):
        return config, 1
    return replace(config, programs=programs_of(config, rows, w.shape[0], w.shape[1], gpu.sms)), 1
