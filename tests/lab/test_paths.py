"""Names of files: slugs, whatever a run says; and every path stays in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from skiplab import paths, share
from skiplab.paths import file_name, inside, runs_directory
from skiplab.report import raw_data
from skiplab.store import Run

NAMES = ["/etc/passwd", "../../up", "..", "", "a/b\\c:d", "x" * 5000, "nul\0", "Ünïcode 測試", "~/.bashrc", "CON ."]


@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_a_name_inside_the_folder(tmp_path, name):
    made = file_name(name, ".jsonl")
    assert (
        Path(made).name == made and set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") and made[0] not in "-."
    )
    path = inside(tmp_path, made)
    path.write_text("")
    assert [one.name for one in tmp_path.iterdir()] == [made]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "runs/../../up", "link/file"])
def test_a_path_that_leads_out_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of the folder folder; allowed are paths inside it"):
        inside(folder, name)


def test_share_names_runs_by_slugs_and_loses_none():
    texts = {"/tmp/a run": "1", "tmp/A/run": "2", "tmp-a-run": "3", "": "4"}
    assert share.named(texts) == {
        "tmp-a-run.jsonl": "1", "tmp-a-run-2.jsonl": "2", "tmp-a-run-3.jsonl": "3", "unnamed.jsonl": "4",
    }  # fmt: skip


def test_share_writes_nothing_where_one_path_leads_out(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir(), elsewhere.mkdir()
    (folder / "runs").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"runs/a\.jsonl: leads out of the folder"):
        share.write(folder, {"README.txt": "", "runs/a.jsonl": ""})
    assert not list(elsewhere.iterdir()) and [path.name for path in folder.iterdir()] == ["runs"]


def test_the_kernels_account_keeps_a_hostile_run_in_the_folder(tmp_path, monkeypatch):
    target = tmp_path / "outside"
    header = {"run_id": str(target), "device": {"name": "GPU"}}
    told = share.account({"run": Run(header)}, [])
    monkeypatch.setattr(share, "execute", lambda document, folder, timeout_s: json.loads(told))
    (tmp_path / "n.py").write_text("# %%\n1\n")
    folder = share.share(tmp_path / "n.py", tmp_path / "out")
    assert not target.with_suffix(".jsonl").exists()
    (written,) = (folder / "runs").iterdir()
    assert written.name.endswith("-outside.jsonl") and json.loads(written.read_text())["run_id"] == str(target)


def test_a_reports_download_and_a_panels_files_have_such_names(tmp_path):
    from skiplab import SweepPanel

    run = Run({"run_id": "/tmp/../<b>", "device": {"name": "GPU"}})
    assert raw_data(run).name == "tmp-b.jsonl"
    panel = SweepPanel(directory=tmp_path / "runs")
    panel._folder.value, panel.run = str(tmp_path / "saved"), run
    assert [path.relative_to(tmp_path).as_posix() for path in panel.save()] == ["saved/tmp-b.png", "saved/tmp-b.csv"]


def test_runs_of_a_user_lie_beside_the_notebooks_and_an_installed_package_keeps_them_in_the_working_folder(monkeypatch):
    assert runs_directory() == paths.notebooks_path() / "runs" and not paths.installed()
    assert paths.is_shipped(paths.data_path("runs", "a.jsonl")) and not paths.is_shipped(runs_directory() / "a.jsonl")
    monkeypatch.setattr(paths, "installed", lambda: True)
    assert runs_directory() == Path("runs")
