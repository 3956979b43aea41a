"""Drafts: how often they are accepted, and what they are checked for."""

import math

import pytest
import torch
from skiplab.model import Drafts, generate
from test_model import some_ids, tiny


def test_drafts_are_accepted_as_often_as_asked():
    model, ids = tiny(), some_ids(1, 10)
    plain = generate(model, ids, 80)
    assert plain.steps == 79
    assert math.isnan(plain.acceptance)
    runs = {}
    for acceptance in (0.0, 0.5, 1.0):
        run = generate(model, ids, 80, drafts=Drafts(plain.tokens, 3, acceptance))
        assert torch.equal(run.tokens, plain.tokens)
        runs[acceptance] = run
    assert runs[0.0].steps == 79
    assert runs[1.0].steps == math.ceil(79 / 4)
    # of three drafts 0.5 + 0.25 + 0.125 are accepted: 1.875 tokens a step; three deviations of 42 steps are 0.5
    assert 79 / (1.875 + 0.5) < runs[0.5].steps < 79 / (1.875 - 0.5)
    repeated = generate(model, ids, 80, drafts=Drafts(plain.tokens, 3, 0.5))
    assert repeated.accepted == runs[0.5].accepted


def test_drafts_that_cannot_be():
    tokens = some_ids(1, 5)
    for options, error, message in (
        ({"count": 0}, ValueError, "count: given 0; must be from 1 to 15"),
        ({"count": 16}, ValueError, "count: given 16; must be from 1 to 15"),
        ({"count": 1, "acceptance": 1.5}, ValueError, "acceptance: given 1.5; must be from 0 to 1"),
        ({"count": 1, "seed": None}, TypeError, "seed: given None"),
    ):
        with pytest.raises(error, match=message):
            Drafts(tokens, **options)
    with pytest.raises(ValueError, match="drafts: given 1 rows; there are 2 prompts"):
        generate(tiny(), some_ids(2, 3), 4, drafts=Drafts(tokens, 1))
    with pytest.raises(ValueError, match="new: given 0"):
        generate(tiny(), some_ids(2, 3), 0)
