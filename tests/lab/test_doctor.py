from skiplab import doctor
from skiplab.contenders import contenders
from skiplab.machine import Machine
from skiplab.operations import OPERATIONS


def test_findings(monkeypatch):
    roof = Machine("CPU", "cpu", bandwidth_gbps=10.0, tflops=0.5, source="measured")
    monkeypatch.setattr(doctor, "this_machine", lambda device: roof)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = {finding.what: finding for finding in doctor.examine("cpu")}
    assert "memory 10 GB/s, product 0.5 TFLOP/s" in found["roofs"].text
    assert found["TRITON_INTERPRET"].state == "ok"
    assert all(finding.state in ("ok", "note", "missing") and finding.text for finding in found.values())


def test_what_is_missing_comes_with_what_to_do(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._numba().state == "ok" and "are compiled" in doctor._numba().text
    monkeypatch.setattr(doctor, "numba_is_missing", lambda: "numba is not installed: pip install numba")
    assert doctor._numba().state == "missing" and "pip install numba" in doctor._numba().text
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor._interpreter().state == "missing"
    assert "apt install g++" in doctor._compiler().text
    assert "pip install" in doctor._widgets().text
    assert doctor._cluster().state == "note" and "skiplab[cluster]" in doctor._cluster().text


def test_an_interpreter_that_numpy_stops_is_told_with_the_way_out(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(doctor.importlib.metadata, "version", {"numpy": "2.4.6"}.get)
    monkeypatch.setattr(doctor, "triton_version", lambda: "3.6.0")
    found = doctor._interpreter()
    assert found.state == "note" and "triton 3.6.0 fails with numpy 2.4.6" in found.text and "numpy<2.4" in found.text
    for version in ("3.7.1", None):
        monkeypatch.setattr(doctor, "triton_version", lambda version=version: version)
        assert doctor._interpreter().state == "ok"


def test_all_contenders_are_listed_with_why_one_cannot_run():
    listed = {(one.operation, one.name): one.reason for one in doctor.usable_contenders("cpu")}
    assert listed.keys() == {(operation, name) for operation in OPERATIONS for name in contenders(operation)}
    assert listed["attention", "sdpa-causal"] is None, "one of its problems is enough"
    assert listed["linear", "blockskip-fused"] == "needs a CUDA device: it is a Triton kernel"
