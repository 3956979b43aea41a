"""`skiplab bench transformers`: four ways to run one model, of the same weights, checked and timed."""

import json

import pytest
import torch
from skiplab.bench import run
from skiplab.bench import transformers as bench

CONFIG = {
    "model_type": "gemma4_text", "vocab_size": 160, "hidden_size": 128, "intermediate_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 6, "rms_norm_eps": 1e-6,
    "sliding_window": 8, "global_head_dim": 64, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
}  # fmt: skip


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    return ["--device", "cpu", "--model", str(path), "--prompt", "20", "--tokens", "5", "--out", str(tmp_path)]


def test_each_way_is_timed_and_compared_with_the_same_weights(words, tmp_path, monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: compiled.append(mode) or model)
    run("transformers", [*words, "--layers", "3", "--parts", "eager", "compiled"])
    said, record = capsys.readouterr().out, json.loads((tmp_path / "transformers_cpu.json").read_text())
    names = ["transformers, bf16, SDPA", "transformers, int4, blockskip", "transformers, int4, blockskip fused"]
    names.append("our decoder, int4")
    assert [row["name"] for row in record["rows"]] == names and all(name in said for name in names)
    plain, ours, fused, decoder = record["rows"]
    for row in record["rows"]:
        assert len(row["prompt_ns"]) == bench.PROMPTS and len(row["token_ns"]) == 2  # of four tokens each
    assert compiled == ["reduce-overhead"] * 3 and all(len(row["compiled_ns"]) == 2 for row in (plain, ours, fused))
    assert all(0 <= row["compiled_off"] <= row["allowed"] for row in (ours, fused))
    assert not decoder["compiled_ns"]  # its steps are CUDA graphs
    assert plain["off"] is None and all(0 <= row["off"] <= row["allowed"] < 0.2 for row in (ours, fused, decoder))
    assert fused["off"] == ours["off"]  # the same bits
    assert (record["layers"], record["prompt"]) == (3, 20) and "transformers" in record["machine"]


def test_wrong_logits_are_said_and_end_the_command_with_an_error(words, tmp_path, monkeypatch, capsys):
    real = bench.Decoder.random
    monkeypatch.setattr(bench.Decoder, "random", lambda *given, seed, **named: real(*given, seed=seed + 1, **named))
    with pytest.raises(SystemExit) as end:
        run("transformers", [*words, "--layers", "2", "--parts", "eager"])
    assert end.value.code == 1 and " wrong" in capsys.readouterr().out
    ours, _, decoder = json.loads((tmp_path / "transformers_cpu.json").read_text())["rows"][1:]
    assert ours["off"] <= ours["allowed"] and decoder["off"] > decoder["allowed"]


def test_one_way_alone(words, tmp_path):
    run("transformers", [*words, "--layers", "2", "--parts", "eager", "--ways", "decoder"])
    (row,) = json.loads((tmp_path / "transformers_cpu.json").read_text())["rows"]
    assert row["name"] == "our decoder, int4" and row["off"] <= row["allowed"]


def test_a_head_in_int4_and_settings_of_inductor(words, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: lambda **given: seen.append(inductor()) or model(**given))
    inductor = lambda: torch._inductor.config.combo_kernels  # noqa: E731
    given = ["--layers", "2", "--ways", "fused", "decoder", "--head", "int4", "--inductor", "combo_kernels=true"]
    run("transformers", [*words, *given, "--parts", "eager", "compiled"])
    record = json.loads((tmp_path / "transformers_cpu.json").read_text())
    assert record["head"] == "int4" and record["inductor"] == {"combo_kernels": True}
    assert seen[: bench.WARM] == [True] * bench.WARM and not inductor()
    fused, decoder = record["rows"]
    assert fused["off"] <= fused["allowed"] and decoder["off"] <= decoder["allowed"]
    assert len(fused["host_ns"]) == len(fused["compiled_ns"]) == 2 and not decoder["host_ns"]
    for text, words_of_it in (
        ("speed=1", "inductor: given 'speed', no number, text or truth value that inductor in torch .* has"),
        ("combo_kernels=yes", "given 'combo_kernels=yes'; combo_kernels=VALUE is needed, a value like false"),
        ("combo_kernels=1", "given 'combo_kernels=1'; combo_kernels=VALUE is needed, a value like false"),
    ):
        with pytest.raises(ValueError, match=words_of_it):
            bench.setting(text)


def test_the_last_layer_of_a_cut_is_of_the_models_last_kind(words):
    config = json.loads(bench.cut(words[3], 4))
    assert config["num_hidden_layers"] == 4
    assert config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
    with pytest.raises(ValueError, match="layers: given 7; must be from 1 to 6"):
        bench.cut(words[3], 7)
