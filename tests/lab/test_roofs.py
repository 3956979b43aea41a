import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from skiplab import cli, paths
from skiplab.cli import roofs as cli_roofs
from skiplab.machine import Probe, copy_probe, machine, product_dtypes, product_probe, read_probe
from skiplab.machine.roofs import Rate, Roofs, read_roofs, recorded_roofs, roofs_path, write_roofs
from skiplab.measure.roofs import measure_roofs
from skiplab.paths import data_path

MIB = 1 << 20
READS = tuple(Rate("a sum", size * MIB, "graph", (time,) * 3) for size, time in ((8, 5000), (16, 9000), (32, 15000)))
ROOFS = Roofs({"name": "NVIDIA Test", "kind": "cuda"}, "measured", "2026-11-25", reads=READS)


def test_a_rate_is_of_its_samples():
    rate = Rate("a sum", 1000, "cpu", (10, 40, 20))
    assert (rate.best, rate.median) == (1000 / 10e-9, 1000 / 20e-9)
    assert rate.median_us == 0.02
    noted = Rate("what somebody saw", noted=3e12)
    assert noted.best == noted.median == 3e12
    assert np.isnan(noted.median_us)


def test_small_reads_are_a_floor_between_the_sizes_measured():
    assert ROOFS.read_us(8 * MIB) == 5
    assert ROOFS.read_us(24 * MIB) == 12
    assert np.isnan(ROOFS.read_us(8 * MIB - 1))
    assert np.isnan(ROOFS.read_us(64 * MIB))
    assert np.isnan(replace(ROOFS, reads=()).read_us(8 * MIB))


def test_probes_do_what_their_amount_says():
    copy, read, product = copy_probe("cpu"), read_probe("cpu"), product_probe("cpu", "float32")
    assert copy.amount == 2 * copy.args[0].nbytes == 2 * copy.args[1].nbytes
    copy.args[0].fill_(7)
    assert torch.equal(copy.call(*copy.args), copy.args[0])
    assert read.amount == read.args[0].nbytes > 100 * MIB
    assert read.call(*read.args) == 0
    rows, inner = product.args[0].shape
    assert product.amount == 2 * rows * inner * product.args[1].shape[1]
    assert product.call(*product.args).shape == (rows, product.args[1].shape[1])
    assert product_dtypes("cpu", "bfloat16") == ("bfloat16", "float32")
    assert product_dtypes("cuda", "bfloat16") == ("bfloat16",)


@pytest.fixture(scope="module")
def quick():
    """Smaller operands: a busy machine takes seconds for the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_large", lambda device: torch.zeros(MIB, dtype=torch.int64, device=device))
        small = Probe(torch.mm, (torch.ones(64, 64), torch.ones(64, 64)), 2 * 64**3)
        patch.setattr(machine, "product_probe", lambda device, dtype: small)
        yield


@pytest.fixture(scope="module")
def measured(quick):
    said = []
    return measure_roofs("cpu", budget_s=0.05, read_bytes=(MIB, 2 * MIB), say=said.append), said


def test_measured_on_a_cpu(measured, tmp_path):
    roofs, said = measured
    rates = [roofs.copy, roofs.read, *roofs.products.values(), *roofs.reads]
    assert [rate.what for rate in rates] == said
    assert all(rate.method == "cpu" and rate.samples_ns and rate.best >= rate.median > 0 for rate in rates)
    assert set(roofs.products) == {"bfloat16", "float16", "float32"}
    assert [rate.amount for rate in roofs.reads] == [MIB, 2 * MIB]
    write_roofs(roofs, tmp_path / "cpu.json")
    assert read_roofs(tmp_path / "cpu.json") == roofs
    here = roofs.machine("float32")
    assert here.source == "recorded"
    assert here.bandwidth_gbps == max(roofs.copy.best, roofs.read.best) / 1e9
    assert here.tflops == roofs.products["float32"].best / 1e12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.update(schema=2), "schema 2; this version"),
        (lambda held: held.pop("schema"), "schema None"),
        (lambda held: held.pop("reads"), "reads"),
        (lambda held: held.update(extra=1), "extra"),
        (lambda held: held["reads"][0].pop("samples_ns"), "samples_ns"),
    ],
)
def test_what_cannot_be_trusted_is_refused_by_name(tmp_path, change, words):
    path = tmp_path / "broken.json"
    write_roofs(ROOFS, path)
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=rf"^broken\.json: .*{words}"):
        read_roofs(path)
    path.write_text("not so")
    with pytest.raises(ValueError, match=r"^broken\.json: no JSON"):
        read_roofs(path)


def test_the_files_that_are_here():
    roofs = recorded_roofs()
    h200 = roofs["NVIDIA H200"].machine()
    assert (h200.bandwidth_gbps, h200.tflops, h200.source) == (4300, 790, "recorded")
    assert all(held.source and held.date and held.machine().tflops > 0 for held in roofs.values())
    with pytest.raises(ValueError, match="dtype: got 'float8'"):
        roofs["NVIDIA H200"].machine("float8")


def test_installed_roofs_go_to_the_users_folder_which_is_read(monkeypatch, tmp_path):
    known = recorded_roofs()
    h200 = known["NVIDIA H200"]
    assert roofs_path(h200.name) == data_path("machines", "nvidia-h200.json")  # a checkout
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    data = data_path()
    monkeypatch.setattr(paths, "_packaged", lambda: data)  # as a wheel's, which `installed` finds there
    path = roofs_path(h200.name)
    assert path == tmp_path / "skiplab" / "machines" / "nvidia-h200.json"
    write_roofs(replace(h200, source="my own"), path)
    assert recorded_roofs() == {**known, h200.name: replace(h200, source="my own")}


def test_the_command_measures_prints_and_writes(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli_roofs, "measure_roofs", partial(measure_roofs, read_bytes=(MIB,)))
    cli_roofs.roofs("cpu", 0.02, tmp_path / "here.json")
    out, err = capsys.readouterr()
    assert "measuring a copy" in err
    assert "measured on" in out
    assert "1 MiB" in out
    assert "roofs: " in out
    assert read_roofs(tmp_path / "here.json").name in out
    assert cli_roofs.roofs in [command.callback for command in cli.app.registered_commands]
    with pytest.raises(ValueError, match="--budget"):
        cli_roofs.roofs("cpu", 0, tmp_path / "here.json")
    with pytest.raises(ValueError, match="--device"):
        cli_roofs.roofs("cuda:99", 1, tmp_path / "here.json")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_measured_on_a_gpu():
    roofs = measure_roofs("cuda", budget_s=0.2, read_bytes=(8 * MIB, 32 * MIB))
    assert roofs.copy is not None
    assert roofs.copy.method == "graph"
    assert roofs.read_us(8 * MIB) < roofs.read_us(32 * MIB)
    assert roofs.reads[1].median < 1.2 * max(roofs.copy.best, roofs.read.best)  # read from memory, not from the L2


def test_the_table_has_three_digits_of_slow_rates_too():
    slow = Rate("a copy of 1 kB", 1000, "cpu", (40_000, 40_000))
    lines = cli_roofs.table(replace(ROOFS, copy=slow)).splitlines()
    assert "a copy of 1 kB: 0.0250 GB/s at best, median 0.0250" in lines[1]
    assert lines[-2].endswith("a sum: 15.0 µs, 2,237 GB/s")
