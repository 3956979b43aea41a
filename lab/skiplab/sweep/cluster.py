"""A Ray cluster measures a sweep: with a worker on each GPU that is free, or on each machine's CPU.

A worker is a Ray actor that holds one GPU (`num_gpus=1`) and has a child process, which measures one order at a time.
Ray is imported where a cluster is opened (`pip install 'skiplab[cluster]'`); CLUSTER.md says how to start one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from skiplab.machine import Machine, this_machine
from skiplab.measure import Child, Measurement, Point
from skiplab.measure.child import Order, order_of
from skiplab.measure.timing import Cancelled
from skiplab.provenance import source_hash
from skiplab.sweep.grid import usable
from skiplab.sweep.header import Site, site_of
from skiplab.sweep.joining import check, join, reason
from skiplab.sweep.workers import Cancel, MeasureSettings, WorkerLost

START_S = 120.0  # what a worker may take to start: it imports torch
POLL_S = 0.1
NODE_DIGITS = 8


@dataclass(frozen=True)
class Placed:
    """Where an actor is: Ray's id of its GPU (empty for a CPU) and of its machine."""

    gpu: str
    node: str
    site: Site

    @property
    def device(self) -> str:
        return f"cuda:{self.gpu}" if self.gpu else "cpu"


class Remote:
    """The part of a worker that is a Ray actor: it sees one GPU, as `cuda`, or a machine's CPU."""

    def __init__(self, kind: str, threads: int):
        torch.set_num_threads(threads)
        self._kind, self._child = kind, Child()

    def placed(self) -> Placed:
        """Where it is; ValueError where Ray says that there is a GPU and torch sees none."""
        import ray

        if not usable(self._kind):
            raise ValueError("Ray has a GPU there, and torch sees none")
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        return Placed(gpus[0] if self._kind != "cpu" else "", context.get_node_id(), site_of(self._kind))

    def machine(self, dtype: str) -> Machine:
        """Its device with measured roofs; the memory that this took is left to the child process."""
        machine = this_machine(self._kind, dtype)
        if self._kind == "cuda":
            torch.cuda.empty_cache()
        return machine

    def take(self, order: Order) -> list[Measurement]:
        """What came of points in the child process."""
        return self._child.take(order)


class Cluster:
    """A SweepRunner on a Ray cluster: joined when it is made, and left when it is closed.

    address: `auto`, the cluster that runs on this machine or that RAY_ADDRESS names, or ray://host:10001. device: cuda
    or cpu. gpu: a part of the name of the GPUs to take, where there are several kinds. ValueError, ConnectionError or
    ImportError says what is wrong; no worker is left then.
    """

    def __init__(self, address: str, device: str, gpu: str | None, say: Callable[[str], None]):
        check(address, device, gpu)
        self._kind, self._threads = device, torch.get_num_threads()
        self._actors: list[Any] = []
        self._joined = join(address)
        try:
            self._placed = _alike(self._started(say), gpu)
        except BaseException:
            self.close()
            raise
        self.site = self._placed[0][1].site

    def machine(self, dtype: str) -> Machine:
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(self._placed[0][0].machine.remote(dtype), timeout=START_S)
        except RayError as error:
            raise ConnectionError(f"cluster: its roofs cannot be measured: {reason(error)}") from error

    def workers(self, settings: MeasureSettings) -> list[OnRay]:
        return [OnRay(self, actor, placed, settings) for actor, placed in self._placed]

    def start(self, node: str) -> Any:
        """Another actor on that machine, which may have to wait for a free GPU."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needs = {"num_gpus": 1, "num_cpus": 0} if self._kind == "cuda" else {"num_cpus": self._threads}
        there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        actor = ray.remote(Remote).options(**needs, scheduling_strategy=there).remote(self._kind, self._threads)
        self._actors.append(actor)
        return actor

    def close(self) -> None:
        import ray

        for actor in self._actors:
            end(actor)
        if self._joined:
            ray.shutdown()

    def _started(self, say: Callable[[str], None]) -> dict[Any, Placed]:
        """Actors on all devices that are free; what others use, and what cannot start, is said."""
        import ray
        from ray.exceptions import RayError

        nodes = self._nodes()
        resource, needed = ("GPU", 1) if self._kind == "cuda" else ("CPU", self._threads)
        free = min(len(nodes), int(ray.available_resources().get(resource, 0) / needed))
        if not free:
            raise ValueError(self._nothing(len(nodes)))
        asked = {(actor := self.start(node)).placed.remote(): actor for node in nodes}
        ready, waiting = ray.wait(list(asked), num_returns=free, timeout=START_S)
        placed, problems = {}, []
        for one in ready:
            try:
                placed[asked[one]] = ray.get(one)
            except RayError as error:
                problems.append(reason(error))
        for one in waiting:
            end(asked[one])
        if not placed:
            told = problems[0] if problems else f"none started within {START_S:g} s"
            raise ConnectionError(f"cluster: no worker can be started: {told}; each machine needs the same skiplab")
        for text, count in Counter(problems).items():
            say(f"cluster: {count} of {len(nodes)} workers cannot be started: {text}")
        if waiting:
            say(f"cluster: {len(waiting)} of {len(nodes)} devices are left to others, who use them")
        return placed

    def _nodes(self) -> list[str]:
        """The machine of each device, by Ray's ids."""
        import ray

        alive = [(one["NodeID"], one["Resources"]) for one in ray.nodes() if one["Alive"]]
        if self._kind == "cuda":
            return [node for node, has in alive for _ in range(int(has.get("GPU", 0)))]
        return [node for node, has in alive if has.get("CPU", 0) >= self._threads]

    def _nothing(self, count: int) -> str:
        if self._kind == "cuda":
            return "cluster: it has no GPU; the device cpu measures on its CPUs" if not count else (
                f"cluster: none of its {count} GPUs is free; wait, or look who uses them: ray status"
            )  # fmt: skip
        return (
            f"cluster: no machine has {self._threads} CPUs free, which torch's threads here ask for; "
            "OMP_NUM_THREADS sets them"
        )


class OnRay:
    """A worker of a cluster, as the lab sees it; `device` is the GPU by its index in its machine."""

    def __init__(self, cluster: Cluster, actor: Any, placed: Placed, settings: MeasureSettings):
        self._cluster, self._actor, self._placed, self._settings = cluster, actor, placed, settings
        self.device, self.node = placed.device, placed.node[:NODE_DIGITS]

    def measure(self, points: Sequence[Point], cancelled: Cancel) -> list[Measurement]:
        s = self._settings
        there = [replace(point, device="cuda" if self._placed.gpu else "cpu") for point in points]
        name = self._placed.site.device["name"]
        answer = order_of(there, s.limits, s.seed, machine=s.machine, device_name=name)
        if isinstance(answer, Order):
            answer = self._answer(self._actor.take.remote(answer), answer.most_s + START_S, cancelled)
        asked = {point.key: point for point in points}
        return [replace(one, point=asked[one.point.key], node=self.node) for one in answer]

    def revive(self, cancelled: Cancel) -> bool:
        """Start another actor on the machine, which may be gone."""
        from ray.exceptions import RayError

        end(self._actor)
        try:
            self._actor = self._cluster.start(self._placed.node)
            placed = self._answer(self._actor.placed.remote(), START_S, cancelled)
        except (WorkerLost, ValueError, RayError):
            end(self._actor)
            return False
        if differences([self._placed.site, placed.site]):
            return False
        self._placed, self.device = placed, placed.device
        return True

    def close(self) -> None:
        end(self._actor)

    def _answer(self, asked: Any, limit_s: float, cancelled: Cancel) -> Any:
        """What the actor returns; raises WorkerLost if it is gone, Cancelled, or what it raised."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        limit = time.monotonic() + limit_s
        try:
            while not ray.wait([asked], timeout=POLL_S)[0]:
                if cancelled():
                    self.close()
                    raise Cancelled
                if time.monotonic() > limit:
                    raise WorkerLost(f"no answer after {limit_s:g} s")
            return ray.get(asked)
        except RayTaskError as error:
            if isinstance(error.cause, OSError):
                raise WorkerLost(f"no child process can be started: {error.cause}") from error
            raise error.cause from error
        except (RayError, OSError) as error:
            raise error if isinstance(error, WorkerLost) else WorkerLost(reason(error)) from error


def end(actor: Any) -> None:
    """End an actor, and with it its child process; it may be gone."""
    import ray
    from ray.exceptions import RayError

    with suppress(RayError, OSError):
        ray.kill(actor)


def _alike(placed: Mapping[Any, Placed], gpu: str | None) -> Sequence[tuple[Any, Placed]]:
    """Those on the GPUs asked for, the others ended; ValueError where a run could not hold the rows of all."""
    names = Counter(one.site.device["name"] for one in placed.values())
    told = ", ".join(f"{count} x {name}" for name, count in sorted(names.items()))
    kept = [(actor, one) for actor, one in placed.items() if (gpu or "").lower() in one.site.device["name"].lower()]
    if not kept:
        raise ValueError(f"gpu: got {gpu!r}; the cluster has {told}")
    if len({one.site.device["name"] for _, one in kept}) > 1:
        raise ValueError(f"cluster: mixed devices: {told}; a run is of one of them: name it (--gpu)")
    if different := differences([one.site for _, one in kept]):
        raise ValueError(f"cluster: its workers differ in {different}; rows of one run are of the same software")
    if (there := kept[0][1].site.source_hash) != source_hash():
        raise ValueError(
            f"cluster: its kernels are others, {there}, than here, {source_hash()}; install the same skiplab"
        )
    for actor, one in placed.items():
        if (actor, one) not in kept:
            end(actor)
    return sorted(kept, key=lambda pair: (pair[1].node, pair[1].gpu))


def differences(sites: Sequence[Site]) -> str:
    """What differs between sites, in words; the device counts by its name."""
    facts = [{**asdict(site), "device": site.device["name"]} for site in sites]
    values = {name: sorted({str(fact[name]) for fact in facts}) for name in facts[0]}
    return ", ".join(f"{name} ({' and '.join(several)})" for name, several in values.items() if len(several) > 1)
