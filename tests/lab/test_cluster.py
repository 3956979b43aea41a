"""A sweep on a Ray cluster: a real one of two machines on this one's CPU, started once for all tests of this file."""

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from dataclasses import replace

import psutil
import pytest
import torch
from skiplab.machine import Machine
from skiplab.provenance import source_hash
from skiplab.store import read_run
from skiplab.sweep import Sweep, cluster, row_key, run_sweep
from skiplab.sweep.cluster import Placed, differences
from skiplab.sweep.header import site_of
from skiplab.sweep.joining import reason
from skiplab.sweep.workers import WorkerLost

# a worker takes as many CPUs as torch has threads here, and the cluster's machines have one each
pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("one_thread")]
TINY = Sweep(("blockskip", "sdpa"), (64, 96), (16, None), q_heads=2, kv_heads=1, head_dim=16, budget_s=0.05)
WHY = "Ray is not installed: pip install 'skiplab[cluster]'"
SMALL = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False}


@pytest.fixture(scope="module")
def two_machines():
    """A Ray cluster, its nodes by the beginning of their ids, and its address for clients."""
    pytest.importorskip("ray", reason=WHY)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets must be short
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv(
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "40"
        )  # its own half a minute is too short on a busy machine; a server that hangs hangs longer: `joined`
        environment.delenv("RAY_ADDRESS", raising=False)
        started, port = start()
        environment.setenv("RAY_ADDRESS", started.address)  # what `auto` is, whatever else runs on this machine
        nodes = [started.head_node, *started.worker_nodes]
        yield started, {node.node_id[: cluster.NODE_DIGITS]: node for node in nodes}, f"ray://127.0.0.1:{port}"
        started.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def start(attempts=3):
    """A cluster of two machines and its port for clients; on a busy machine Ray gives up after half a minute."""
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = Cluster()
    try:
        started.add_node(**SMALL, no_monitor=True, ray_client_server_port=port)
        started.add_node(**SMALL)
    except Exception:  # it raises that itself
        started.shutdown()
        if attempts == 1:
            raise
        return start(attempts - 1)
    return started, port


@pytest.fixture(autouse=True)
def no_roofs(monkeypatch):
    """Roofs that nothing beats, instead of measured ones: that takes seconds."""
    high = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
    monkeypatch.setattr(cluster.Cluster, "machine", lambda self, dtype: high)


def kill_worker(node):
    """End the actor on a machine of the cluster, as the system does where memory is out."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    (actor,) = [one for one in raylet.children() if one.name().startswith("ray::Remote")]
    actor.kill()


def joined(call, attempts=4):
    """What the call returns; again where Ray's server for a client hung, which is forked beside gRPC's threads."""
    try:
        return call()
    except ConnectionError as problem:
        if attempts == 1 or "Starting Ray client server failed" not in str(problem):
            raise
        return joined(call, attempts - 1)


def test_a_worker_is_killed_the_sweep_is_cancelled_and_goes_on_as_a_client(two_machines, tmp_path, monkeypatch):
    machines, nodes, client = two_machines
    monkeypatch.setattr(sys, "argv", ["skiplab", "sweep", "--cluster", client])
    rows, said, seen = [], [], []

    def measured(taken):
        if not rows:
            (other,) = set(nodes) - {taken.node}
            kill_worker(nodes[other])
        rows.append(taken)

    path = tmp_path / "run.jsonl"
    how = {"on_progress": seen.append, "progress": False, "say": said.append}
    stopped = run_sweep(
        TINY, path, cluster="auto", on_measurement=measured, cancelled=lambda: len(rows) >= 5, **how
    )  # fmt: skip
    assert len(stopped.rows) == 5 and "interrupted" in stopped.header
    assert any("died" in text for text in said)
    assert set(seen[-1].devices) == {f"cpu of {node}" for node in nodes} and seen[-1].done == 5

    machines.remove_node(next(iter(machines.worker_nodes)))
    seen.clear()
    done = joined(lambda: run_sweep(TINY, path, cluster=client, **how))
    assert seen[-1].total == seen[-1].done == 3 and len(seen[-1].devices) == 1
    assert "interrupted" not in done.header and "end" in done.header
    assert sorted(row["key"] for row in done.rows) == sorted(row_key(point) for point in TINY.points())
    assert {row["status"] for row in done.rows} == {"ok"}
    assert {row["node"] for row in done.rows} <= set(nodes) and {row["torch_device"] for row in done.rows} == {"cpu"}
    homes = {}
    for row in done.rows:
        home = homes.setdefault((row["axes"]["q_len"], row["axes"]["window"]), row["node"])
        assert ("other-device" in row["flags"]) == (row["node"] != home)
    text = read_run(path).path.read_text()
    assert '"ray:"' in text and "127.0.0.1" not in text and socket.gethostname() not in text
    actors = [one for one in psutil.Process().children(recursive=True) if one.name().startswith("ray::Remote")]
    assert psutil.wait_procs(actors, timeout=60)[1] == []


def test_what_the_cluster_lacks_is_said_and_leaves_no_file(two_machines, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="cluster: it has no GPU; the device cpu measures on its CPUs"):
        run_sweep(replace(TINY, device="cuda"), tmp_path / "run.jsonl", cluster="auto")
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="cluster: no machine has 2 CPUs free"):
        run_sweep(TINY, tmp_path / "run.jsonl", cluster="auto")
    import ray

    assert not ray.is_initialized() and not list(tmp_path.iterdir())


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"cluster: Ray is not installed: pip install 'skiplab\[cluster\]'"):
        run_sweep(TINY, cluster="auto")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cluster": "rack"}, r"cluster: got 'rack'; allowed are auto and ray://host:10001"),
        ({"cluster": "ray://host"}, r"cluster: got 'ray://host'"),
        ({"cluster": "auto", "devices": ("cpu",)}, "cluster: got auto beside devices cpu"),
        ({"cluster": "auto", "isolate": False}, "cluster: got auto beside isolate=False"),
        ({"cluster": "auto", "gpu": "H100"}, "gpu: got 'H100' with the device cpu"),
        ({"gpu": "H100"}, "gpu: got 'H100' without a cluster"),
    ],
)
def test_options_that_do_not_fit_are_refused(how, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_sweep(TINY, tmp_path / "run.jsonl", **how)
    assert not list(tmp_path.iterdir())


def test_ray_chooses_the_gpu():
    with pytest.raises(ValueError, match="device: got 'cuda:1' of a cluster, where Ray chooses which"):
        run_sweep(replace(TINY, device="cuda:1"), cluster="auto")


@pytest.fixture
def no_attempt(monkeypatch):
    """Fails if Ray itself tries to join, which it does for minutes."""
    ray = pytest.importorskip("ray", reason=WHY)
    monkeypatch.setattr(ray, "init", lambda *args, **named: pytest.fail("tried"))


def test_a_cluster_that_does_not_answer_is_given_up_soon(monkeypatch, no_attempt):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        here = f"ray://127.0.0.1:{port}"
        with pytest.raises(ConnectionError, match=f"cluster: {here} cannot be joined: nobody answers at {here}"):
            run_sweep(TINY, cluster=here)
        for named in (here, f"127.0.0.1:{port}"):
            monkeypatch.setenv("RAY_ADDRESS", named)
            with pytest.raises(ConnectionError, match=f"cluster: auto cannot be joined: nobody answers at .*:{port}"):
                run_sweep(TINY, cluster="auto")


def test_a_host_that_says_nothing_is_waited_for_five_seconds(monkeypatch, no_attempt):
    def silent(address, timeout):
        raise TimeoutError(f"{address} in {timeout} s")

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(ConnectionError, match=r"nobody answers at ray://rack:10001: \('rack', 10001\) in 5.0 s"):
        run_sweep(TINY, cluster="ray://rack:10001")


def test_where_no_cluster_runs_auto_says_so(monkeypatch, tmp_path, no_attempt):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    with pytest.raises(ConnectionError, match="cluster: auto cannot be joined: Could not find any running Ray"):
        run_sweep(TINY, cluster="auto")


def placed(name, gpu="0", node="a" * 56, **facts):
    site = replace(site_of("cpu"), device={"name": name, "kind": "cuda"}, **facts)
    return Placed(gpu, node, site)


def test_a_run_is_of_one_kind_of_gpu_and_gpu_chooses_it(monkeypatch):
    ended = []
    monkeypatch.setattr(cluster, "end", ended.append)
    there = {"a": placed("NVIDIA H200", "1"), "b": placed("NVIDIA H100"), "c": placed("NVIDIA H200", "0")}
    with pytest.raises(ValueError, match="mixed devices: 1 x NVIDIA H100, 2 x NVIDIA H200; a run is of one of them"):
        cluster._alike(there, None)
    with pytest.raises(ValueError, match="gpu: got 'A100'; the cluster has 1 x NVIDIA H100, 2 x NVIDIA H200"):
        cluster._alike(there, "A100")
    assert not ended
    kept = cluster._alike(there, "h200")
    assert [(actor, one.device) for actor, one in kept] == [("c", "cuda:0"), ("a", "cuda:1")] and ended == ["b"]


def test_rows_of_one_run_are_of_the_same_software():
    one, other = placed("NVIDIA H200"), placed("NVIDIA H200", "1", torch="2.1")
    with pytest.raises(ValueError, match=r"cluster: its workers differ in torch \(2\.1 and "):
        cluster._alike({"a": one, "b": other}, None)
    with pytest.raises(ValueError, match=f"cluster: its kernels are others, abc, than here, {source_hash()}"):
        cluster._alike({"a": placed("NVIDIA H200", source_hash="abc")}, None)
    assert differences([one.site, placed("NVIDIA H200").site]) == ""


class Answers:
    """Stands for Ray's `wait` and `get`: an answer that raises."""

    def __init__(self, error):
        self.error = error

    def wait(self, asked, timeout):
        return asked, []

    def get(self, asked):
        raise self.error


def test_what_a_worker_raises_is_a_loss_or_the_labs_own_fault(monkeypatch):
    pytest.importorskip("ray", reason=WHY)
    import ray
    from ray.exceptions import ActorDiedError, RayTaskError

    worker = cluster.OnRay(None, None, placed("NVIDIA H200", "3"), None)  # type: ignore[arg-type]
    assert (worker.device, worker.node) == ("cuda:3", "aaaaaaaa")

    def answer(error):
        stub = Answers(error)
        monkeypatch.setattr(ray, "wait", stub.wait)
        monkeypatch.setattr(ray, "get", stub.get)
        return worker._answer("asked", 1.0, lambda: False)

    def task_error(cause):
        return RayTaskError("take", "Traceback", cause)

    for error, text in (
        (ActorDiedError(), "The actor died unexpectedly"),
        (ConnectionError("gone"), "gone"),
        (task_error(OSError("no more processes")), "no child process can be started: no more processes"),
    ):
        with pytest.raises(WorkerLost, match=text):
            answer(error)
    with pytest.raises(ValueError, match="no 'nobody'"):
        answer(task_error(ValueError("no 'nobody'")))
    told = "ray::Remote.placed() (pid=1, ip=192.0.2.2)\n  File 'cluster.py', line 1\nValueError: torch sees none\n"
    assert reason(RayTaskError("placed", told, ValueError())) == "ValueError: torch sees none"


@pytest.mark.parametrize("command", ["sweep", "decode", "linear", "model laptop", "rerun old.jsonl"])
def test_every_command_that_sweeps_takes_a_cluster(command, tmp_path, monkeypatch, capsys):
    from skiplab import cli
    from skiplab.cli import run as cli_run

    asked = []

    def instead(wanted, path, *, cluster, gpu, devices, **named):
        asked.append((wanted.device, cluster, gpu, devices))
        raise ValueError("enough")

    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(ValueError):
        run_sweep(TINY, "old.jsonl", isolate=False, progress=False, cancelled=lambda: True)
    monkeypatch.setattr(cli_run, "run_sweep", instead)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["skiplab", *command.split(), *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    on = ("--cluster", "ray://host:10001")
    own = "cpu" if "rerun" in command else "cuda"
    assert call(*on) == (2, "skiplab: enough\n") == call(*on, "--device", "cuda", "--gpu", "H200")
    assert asked == [(own, "ray://host:10001", None, ()), ("cuda", "ray://host:10001", "H200", ())]
    assert call(*on, "--devices", "cpu,cpu")[1] == (
        "skiplab: --devices: got cpu,cpu beside --cluster ray://host:10001; give one of them\n"
    )
    assert call("--gpu", "H200")[1] == "skiplab: --gpu: got H200 without --cluster; it chooses among the GPUs of one\n"
    assert call("--devices", "cpu,cpu") == (2, "skiplab: enough\n") and asked[-1] == ("cpu", None, None, ("cpu", "cpu"))
    assert os.listdir(tmp_path) == ["old.jsonl"]
