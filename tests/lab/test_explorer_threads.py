"""JupyterLab runs callbacks on several threads: a change that comes while another is shown waits, and is not lost."""

from __future__ import annotations

import threading

import pytest
from skiplab.widgets.int4.explorer import Int4Explorer
from skiplab.widgets.mask.explorer import MaskExplorer
from skiplab.widgets.model.explorer import ModelExplorer
from skiplab.widgets.splits.explorer import SplitExplorer

EXPLORERS = {
    "mask": (lambda: MaskExplorer(q_len=1024), "canvas", {"window": 256}, ("block_m", 64), {"block_m": 64}),
    "splits": (SplitExplorer, "view", {"kv_len": 4096}, ("q_len", 4), {"q_len": 4}),
    "int4": (Int4Explorer, "memory", {"bits": 8}, ("group_size", 64), {"group_size": 64}),
    "model": (lambda: ModelExplorer([]), "view", {"drafts": 3}, ("own", False), {"window": 1024}),
}
"""Explorer, its picture, what the first thread sets, the control that the second moves, the settings that makes."""


@pytest.mark.parametrize("make, picture, first, second, then", EXPLORERS.values(), ids=EXPLORERS)
@pytest.mark.parametrize("by_code", (False, True), ids=("by-control", "by-code"))
def test_a_change_while_another_thread_shows_one_is_not_lost(make, picture, first, second, then, by_code, monkeypatch):
    explorer = make()
    view, showing, go_on = getattr(explorer, picture), threading.Event(), threading.Event()
    shown = view.show

    def pause():
        showing.set()
        assert go_on.wait(20)

    (name, value), (control, moved) = next(iter(first.items())), second
    if by_code:  # halfway through the controls that it sets
        explorer._controls[name].observe(lambda _: pause(), "value")
    else:
        monkeypatch.setattr(view, "show", lambda *args: (pause(), shown(*args)))
    begin = (lambda: explorer.set(**first)) if by_code else lambda: explorer._controls[name].set_trait("value", value)
    threads = [
        threading.Thread(target=begin),
        threading.Thread(target=lambda: explorer._controls[control].set_trait("value", moved)),
    ]
    threads[0].start()
    assert showing.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    go_on.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert {key: getattr(explorer.settings, key) for key in first | then} == first | then
    assert explorer._controls[name].value == value and explorer._controls[control].value == moved
