"""What an explorer leaves in a saved notebook: its picture and its words, for where no kernel draws the widget."""

from __future__ import annotations

from abc import abstractmethod
from base64 import b64encode
from typing import Any

from skiplab.templates import render

WIDGET = "application/vnd.jupyter.widget-view+json"


class Pictured:
    """A widget that is displayed as two outputs: itself, and its picture with words, hidden as long as it lives.

    Of one output JupyterLab shows the widget and nothing else, and where no kernel knows it any more an error. Mixed in
    before the widget's class, which says in `still` what is kept.
    """

    @abstractmethod
    def still(self) -> tuple[bytes, str]:
        """A PNG, and what it shows in a line of words."""

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, its picture and its words in one bundle, for those who ask for it instead of displaying it."""
        bundle: Any = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
        picture, words = self.still()
        data = {**(data or {}), "image/png": picture, "text/plain": words}
        return (data, *metadata) if metadata else data

    def _ipython_display_(self) -> None:
        from IPython.display import display

        self.add_class("skiplab-live")  # type: ignore[attr-defined]
        bundle = self._repr_mimebundle_()
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        picture, words = b64encode(data["image/png"]).decode(), data["text/plain"]
        if WIDGET in data:
            display({WIDGET: data[WIDGET]}, raw=True)
        html = render("explorers.still", picture=picture, words=words)
        display({"text/html": html, "image/png": picture, "text/plain": words}, raw=True)
