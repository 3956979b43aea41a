"""Steps and short prompts as graphs: when they are captured, replayed, captured again, and left."""

import pytest
import torch
from skiplab.model import Decoder, decoder
from test_model import SPEC, some_ids, tiny


class Recorder:
    """In the place of `captured`: what is captured, and how often each is replayed."""

    def __init__(self):
        self.captures, self.replays = [], []

    def __call__(self, run, ids, lengths):
        self.captures.append(ids.shape[1])
        mine = len(self.captures)

        def replay(ids):
            self.replays.append(mine)
            return run(ids)

        return replay


def test_graphs_are_captured_by_length_and_again_after_growth(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(decoder, "captured", recorder)
    model, ids = tiny(), some_ids(1, 40)
    model.graphs, model.growth = True, 16
    model.prefill(ids[:, :5])
    for tokens in (1, 1, 4, 1, 4):  # 16 positions in all
        model.step(ids[:, :tokens])
    assert (recorder.captures, recorder.replays) == ([1, 4], [1, 1, 2, 1, 2])
    model.step(ids[:, :1])  # the 17th
    assert recorder.captures == [1, 4, 1]
    model.prefill(ids[:, :20])  # there is room for it
    model.step(ids[:, :1])
    assert recorder.captures == [1, 4, 1]
    model.prefill(ids)  # there is not
    model.step(ids[:, :1])
    assert recorder.captures == [1, 4, 1, 1]


def test_a_short_prompt_is_captured_the_second_time(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(decoder, "captured", recorder)
    monkeypatch.setattr(decoder, "SHORT_PROMPT", 10)
    model, plain, ids = tiny(), tiny(), some_ids(1, 40)
    model.graphs = True
    model.prefill(ids)  # makes a cache that holds all
    for start, tokens in ((0, 6), (3, 6), (9, 6), (0, 7), (2, 7), (0, 12), (1, 12)):
        given = ids[:, start : start + tokens]
        assert torch.equal(model.prefill(given), plain.prefill(given))
        assert model.cache.counts == model.cache.lengths.tolist() == [tokens]
        torch.testing.assert_close(model.step(given[:, :1], graph=False), plain.step(given[:, :1]), rtol=0, atol=1e-5)
    assert (recorder.captures, recorder.replays) == ([6, 7], [1, 1, 2])
    model.prefill(ids[:, :6], graph=False)
    model.prefill(ids[:, :6], logits="all")
    model.prefill(ids[:, :6], chunk=4)
    model.prefill(ids[:, :6].repeat(2, 1), lengths=[6, 5])  # another batch: another cache, whose graphs are none
    model.prefill(ids[:, :6].repeat(2, 1), lengths=[6, 5])
    assert (recorder.captures, recorder.replays) == ([6, 7], [1, 1, 2])


def test_graphs_of_few_lengths_are_kept(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(decoder, "captured", recorder)
    model, ids = tiny(), some_ids(1, 20)
    model.graphs = True
    for tokens in (1, 2, 3, 4, 5, 1, 1, 5):
        model.prefill(ids[:, :tokens])
    assert recorder.captures == [1, 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("bits", [None, 4])
def test_a_graph_gives_the_bits_of_its_step(bits):
    ids = some_ids(2, 60).cuda()
    found = []
    for graphs in (True, False):
        model = Decoder.random(SPEC, device="cuda", bits=bits)
        model.graphs, model.growth = graphs, 16
        found.append([model.prefill(ids[:, :9], graph=graphs) for _ in range(3)])
        model.prefill(ids[:, :5], lengths=[5, 3])
        found[-1] += [model.step(ids[:, i : i + 1 + i % 3]) for i in range(5, 55, 3)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
