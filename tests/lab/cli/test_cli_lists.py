"""List options: commas and repetition mean the same, in every command, and what no list can hold is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from skiplab import cli
from skiplab.bench import record
from skiplab.cli import options, tune
from skiplab.cli import run as cli_run
from typer.main import get_command

COMMANDS = {
    "sweep": "--contender blockskip,sdpa --q-len 64,128 --window 16,causal --again busy,throttled "
    "--kv-dtype bfloat16,float8_e4m3fn",
    "sweep with masks": "--mask chunked(16)&causal(),band(-3,2)&causal()",
    "sweep of packed prompts": "--lengths 512*32x7,64-4096:16384 --window 16,causal",
    "decode": "--contender blockskip,sdpa --kv-len 64,128 --window 16,causal --kv-dtype bfloat16,float8_e4m3fn",
    "linear": "--contender blockskip,bf16 --shape 64x64,128x64 --rows 1,2,4 --bits 4,8 --group-size 32,64",
    "linear of a model": "--model gemma4-31b --layer qkv,o",
    "model laptop": "--contender blockskip,sdpa --prompt 16,32 --depth 0,16 --rows 1,4",
    "tune attention": "--heads 32/8x128,32/16x256 --mask causal,1024 --q-len 64,128 --config 64x64x4x2,64x32x4x2",
    "tune decode": "--heads 32/8x128,32/16x256 --kv-len 64,128 --window 16,causal --q-len 1,4",
    "tune linear": "--shape 64x256,128x256 --rows 1,2 --bits 4,8 --group-size 32,64",
    "tune linear of packings": "--packing rows,tiles --bits 4",
}


@pytest.fixture
def wanted(skiplab, monkeypatch):
    """What a command would measure, by its words; nothing is."""
    seen = []

    def instead(*args, **named):
        seen.append((args[0], named.get("again")))
        raise ValueError("enough")

    monkeypatch.setattr(cli_run, "run_sweep", instead)
    monkeypatch.setattr(tune, "_tune", lambda wanted, *rest: instead(tuple(wanted)))

    def of(*words: str):
        assert skiplab(*words)[2] == "skiplab: enough\n"
        return seen.pop()

    return of


@pytest.mark.parametrize("command", COMMANDS)
def test_commas_and_repetition_mean_the_same(wanted, command):
    words = command.partition(" with ")[0].partition(" of ")[0].split()
    lists = list(zip(*[iter(COMMANDS[command].split())] * 2, strict=True))
    commas = [word for option, values in lists for word in (option, values)]
    again = [word for option, values in lists for one in parts(values) for word in (option, one)]
    found = wanted(*words, *commas)
    assert found == wanted(*words, *again) and len(again) > len(commas)
    assert found != wanted(*words, *[word for option, values in lists for word in (option, parts(values)[0])])


def parts(values: str) -> list[str]:
    return ["chunked(16)&causal()", "band(-3,2)&causal()"] if "(" in values else values.split(",")


def commands(group) -> dict:
    """Every command by its words."""
    found = {}
    for name, one in group.commands.items():
        inner = commands(one) if hasattr(one, "commands") else {"": one}
        found.update({f"{name} {word}".strip(): command for word, command in inner.items()})
    return found


def test_no_list_option_of_any_command_is_without_them():
    """Those that are tried above, and those that need files, devices or a compiler, which other files here have.

    An axis or a constant has a name: its values have commas between them, and it is given once for each.
    """
    tried = {(name.partition(" with ")[0].partition(" of ")[0].partition(" laptop")[0], word)
             for name, words in COMMANDS.items() for word in words.split() if word.startswith("--")}  # fmt: skip
    lists = {
        (name, param.opts[0]): param.help
        for name, command in commands(get_command(cli.app)).items()
        for param in command.params
        if param.multiple
    }
    others = {"--table", "--from-run", "--devices", "--contender", "--again", "--mask", "--from", "--fail-on"}
    compiled = {("anatomy", "--arch"), ("anatomy", "--config"), ("anatomy", "--argument"), ("tune kernel", "--config")}
    named = {key for key in lists if key[1] in ("--at", "--constant")}
    assert {key for key in lists if key[1] not in others} - named - compiled <= tried and len(lists) > 30
    assert all(("once for each" if key in named else "several with commas between") in lists[key] for key in lists)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--q-len", "64,many"], "--q-len: got 'many'; allowed are whole numbers with commas between"),
        (["sweep", "--contender", "sdpa,,flex"], "--contender: got 'sdpa,,flex', where a comma has nothing"),
        (["sweep", "--window", "16,wide"], "--window: got 'wide'"),
        (["linear", "--rows", "1,-2"], "--rows: got '-2'; allowed are whole numbers"),
        (["runs", "decode-qwen,", "--list"], "TOPIC: got 'decode-qwen,', where a comma has nothing"),
        (["bench", "linear_cpu", "--rows", "1,many"], "--rows: invalid int value: '1,many'"),
        (["bench", "linear_cpu", "--dtypes", "bf16,int3"], "--dtypes: got 'int3'; allowed are bf16, fp32"),
    ],
)
def test_what_no_list_can_hold_is_named(skiplab, words, message):
    code, _, err = skiplab(*words)
    assert code == 2 and message in " ".join(err.split())


def test_topics_may_have_commas(skiplab):
    _, out, _ = skiplab("runs", "decode-qwen,linear-int4-fused", "--list")
    assert [line.split()[0] for line in out.splitlines()] == ["decode-qwen", "linear-int4-fused"]


def test_a_file_with_a_comma_in_its_name_is_one_file():
    Path("a,b.jsonl").touch()
    found = options.paths("--from-run", ["a,b.jsonl", "c.jsonl,d.jsonl"])
    assert list(map(str, found)) == ["a,b.jsonl", "c.jsonl", "d.jsonl"]


def test_a_benchmarks_lists_take_commas_and_blanks():
    parser = record.options("x", None)
    parser.add_argument("--rows", type=int, action=record.Listed, default=[7])
    assert parser.parse_args([]).rows == [7]
    assert parser.parse_args(["--rows", "1,2", "4"]).rows == [1, 2, 4]
