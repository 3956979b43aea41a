"""Where the panel measures: on this machine, on several of its GPUs side by side, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import torch

from skiplab.machine import default_device, device_name
from skiplab.sweep import Where
from skiplab.widgets import controls

CLUSTERS = {"cuda": "the GPUs of a Ray cluster", "cpu": "the CPUs of a Ray cluster"}
HINT = "auto: the cluster that runs on this machine; or ray://host:10001. A Ray cluster belongs on a trusted network."


class WhereControls(w.VBox):
    """The choice of devices; `where` is what it says. A cluster has an address, and a part of its GPUs' name.

    devices, cluster, gpu: as `run_sweep` has them; what is chosen at first.
    """

    def __init__(self, devices: Sequence[str], cluster: str | None, gpu: str | None):
        here = own_choices(tuple(devices))
        options = [*here, *((label, f"cluster {kind}") for kind, label in CLUSTERS.items())]
        first = "cluster cuda" if cluster is not None else here[-1][1] if devices else here[0][1]
        self.choice = controls.choice("Measure on", options, first, "where", "480px")
        self.address = controls.field("Cluster", cluster or "auto", "cluster", HINT, "340px")
        self.gpu = controls.field("GPUs named", gpu or "", "gpu", "a part of their name, where there are several kinds")
        self._more = w.VBox([self.address, self.gpu, w.HTML(controls.hint(HINT))])
        self.choice.observe(lambda _: self._follow(), "value")
        super().__init__([self.choice, self._more])
        self._follow()

    @property
    def where(self) -> Where:
        """Where to measure, by the controls."""
        word, _, rest = str(self.choice.value).partition(" ")
        if word != "cluster":
            several = tuple(rest.split(",")) if rest else ()
            return Where(several[0] if several else default_device(), several)
        return Where(rest, (), self.address.value.strip(), self.gpu.value.strip() or None)

    @property
    def name(self) -> str:
        """What it measures on, in words."""
        where = self.where
        if where.cluster is not None:
            return f"{CLUSTERS[where.device]}, {where.cluster}"
        return f"{len(where.devices)} x {device_name(where.device)}" if where.devices else device_name(where.device)

    def _follow(self) -> None:
        on_cluster = self.where.cluster is not None
        self._more.layout.display = "" if on_cluster else "none"
        self.gpu.layout.display = "" if self.where.device == "cuda" else "none"


def own_choices(devices: tuple[str, ...]) -> list[tuple[str, str]]:
    """This machine's own choices, label and value: one device, all GPUs of its kind, and the devices asked for."""
    device = default_device()
    found = [(device_name(device), "here")]
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    alike = tuple(f"cuda:{index}" for index, name in enumerate(names) if name == names[0])
    for several in dict.fromkeys((alike, devices)):
        if len(several) > (several != devices):
            found.append((f"side by side: {', '.join(several)}", f"here {','.join(several)}"))
    return found
