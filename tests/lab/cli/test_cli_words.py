"""What the commands say to a stranger: wrong input is named as it was typed, and help has no word of Python's."""

from __future__ import annotations

import re
import shlex

import pytest
from skiplab.cli import app
from skiplab.cli.command import as_typed
from skiplab.cli.options import writable
from skiplab.store import read_runs
from typer.main import get_command

COMMAND = get_command(app)
NAMES = [
    *((name,) for name in COMMAND.commands if name != "tune"),
    *(("tune", name) for name in COMMAND.commands["tune"].commands),
]
WRONG = [
    ("lab --port x", "--port: got 'x'; allowed is a whole number"),
    ("lab --port 70000", "--port: got 70000; allowed are 1 to 65535"),
    ("sweep --q-len 0", "--q-len: given 0; must be at least 1"),
    ("sweep --seed x", "--seed: got 'x'; allowed is a whole number"),
    ("sweep --budget much", "--budget: got 'much'; allowed is a number"),
    ("sweep --budget 0", "--budget: got 0.0; allowed is more than 0 seconds"),
    ("sweep --head-dim 7", "--head-dim: given 7; must be from 8 to 512"),
    ("sweep --contender nobody", "--contender: no 'nobody'; there are blockskip,"),
    ("sweep --mask wide", "--mask: got 'wide'"),
    ("sweep --again fast", "--again: got 'fast'; allowed are a status (ok, wrong, "),
    ("sweep --again 'ok,fast'", "--again: got 'fast'; allowed are a status"),
    ("sweep --q-len 512 1024", "unexpected extra argument(s) (1024); several values of an option have commas between"),
    ("sweep --report .", "--report: got ., which is a folder; allowed is a file's name"),
    ("sweep --report note/a.html", "--report: got note/a.html, whose folder cannot be made"),
    ("sweep --run note/a.jsonl", "--out: got note/a.jsonl, whose folder cannot be made"),
    ("sweep --table note/a.csv", "--table: got note/a.csv, whose folder cannot be made"),
    ("decode --kv-len 0", "--kv-len: given 0"),
    ("decode --ragged 2", "--ragged: got 2; allowed is more than 0"),
    ("linear --rows 0", "--rows: given 0"),
    ("linear --bits 5", "--bits: given 5; allowed are 4, 8"),
    ("linear --model laptop --layer odd", "--layer: laptop has no 'odd' here; there are qkv"),
    ("model odd", "SPEC: got 'odd'; allowed are gemma3-27b"),
    ("model laptop --group-size 5", "--group-size: given 5; allowed are 32, 64, 128"),
    ("tune odd", "COMMAND: got 'odd'; allowed are attention, decode, linear, kernel, or none for attention"),
    ("tune --mask wide", "--mask: cannot read 'wide'"),
    ("tune --heads 3", "--heads: got '3'; allowed is query heads/key heads x head size"),
    ("tune linear --packing odd", "--packing: given 'odd'; allowed are rows, tiles"),
    ("tune kernel nobody", "NAME: no 'nobody'; there are blockskip"),
    ("tune kernel sdpa", "NAME: got sdpa, which is the lab's own"),
    ("tune kernel mine --operation odd", "--operation: got 'odd'; allowed are attention, decode, linear, model"),
    ("anatomy nobody", "NAME: no 'nobody'; there are"),
    ("anatomy blockskip --arch odd", "--arch: got 'odd'; allowed are names"),
    ("anatomy blockskip --argument i32", "--argument: got i32; it is for a Triton function of --from"),
    ("anatomy blockskip --constant BLOCK=3", "--constant: got BLOCK; it is for a Triton function of --from"),
    ("anatomy blockskip --at q_len=many", "--at q_len: given 'many'"),
    ("anatomy blockskip --at odd=1", "--at: got odd; the axes of attention are q_len"),
    ("timeline nobody", "NAME|TRACE: no 'nobody'; there are"),
    ("check nobody", "NAME: no 'nobody'; there are"),
    ("check sdpa --operation odd", "--operation: got 'odd'; allowed are attention"),
    ("roofs --budget 0", "--budget: got 0.0; allowed is more than 0 seconds"),
    ("roofs --out note/a.json", "--out: got note/a.json, whose folder cannot be made"),
    ("compare", "Missing argument 'OLD... NEW'"),
    ("compare gone.jsonl there.jsonl", "gone.jsonl: cannot be read: no such file or directory"),
    ("query 'SELEC 1'", "SQL: Parser Error"),
    ("query 'SELECT 1' gone.jsonl", "RUN: there is no file 'gone.jsonl'"),
    ("report gone.jsonl", "gone.jsonl: cannot be read: no such file or directory"),
    ("report gone.jsonl --margin wide", "--margin: got 'wide'; allowed is a number"),
    ("share gone.ipynb", "NOTEBOOK: there is no file gone.ipynb"),
    ("rerun gone.jsonl", "gone.jsonl: cannot be read"),
    ("doctor --device odd", "--device: got 'odd'; allowed are cpu, cuda, cuda:1"),
    ("runs odd", "TOPIC: got 'odd'; allowed are prefill"),
    ("runs --contender odd --list", "--contender: got 'odd'; these topics have"),
    ("bench odd", "NAME: got 'odd'; allowed are tilemap"),
    ("figures odd", "unexpected extra argument"),
]


@pytest.fixture
def note(tmp_path):
    (tmp_path / "note").write_text("a file where a folder would have to be")


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_input_is_named_as_it_was_typed(skiplab, note, line, message):
    code, out, err = skiplab(*shlex.split(line))
    assert code == 2 and message in err and "Traceback" not in err
    assert "points" not in out  # nothing was measured


def test_a_folder_is_made_and_a_run_of_another_device_is_not_blamed_on_an_option(skiplab, tmp_path):
    assert writable("--out", tmp_path / "new" / "a.html") == tmp_path / "new" / "a.html"
    assert (tmp_path / "new").is_dir()
    of_a_gpu = next(
        run.path for run in read_runs() if run.header["device"]["kind"] == "cuda" and run.operation != "model"
    )
    code, _, err = skiplab("rerun", of_a_gpu)
    assert code == 2 and "is of cuda, which torch does not see here; say --device cpu" in err


def helps(skiplab, names):
    code, out, _ = skiplab(*names, "--help")
    assert code == 0
    return out


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_help_has_no_type_of_pythons_and_its_examples_have_the_options_that_there_are(skiplab, names):
    out = helps(skiplab, names)
    assert not re.search(r"<list|<Path|\[str\]|\{[a-z]+\}", out)
    for line in re.findall(r"^    (skiplab .+|--\w.+)$", out, re.MULTILINE):
        for option in re.findall(r"(?<!\S)--[a-z-]+", line):
            assert re.search(rf"^  (--[\w-]+(, | / ))*{option}\b", out, re.MULTILINE), (line, option)


@pytest.mark.parametrize("verb", ["attention", "decode", "linear"])
def test_out_of_a_tuning_is_its_folder_and_run_its_file(skiplab, verb):
    out = helps(skiplab, ("tune", verb))
    assert len(re.findall(r"^  --out\b", out, re.MULTILINE)) == 1 and re.search(r"^  --run <path>", out, re.MULTILINE)


def test_a_name_that_no_parameter_has_stays():
    params = COMMAND.commands["sweep"].params
    assert as_typed("a file.jsonl: q_len: 3", params) == "a file.jsonl: q_len: 3"
    assert as_typed("in_features: got 8", params) == "in_features: got 8"
    assert as_typed("q_len: given 0: no", params) == "--q-len: given 0: no"
    assert as_typed("q_len: given 0", params, ["q_len"]) == "--at q_len: given 0"
