"""What a figure shows, before anybody draws it: plotly and matplotlib draw the same chart."""

from __future__ import annotations

from dataclasses import dataclass

from skiplab.figures import theme


@dataclass(frozen=True)
class Hover:
    """What a point says under the pointer, in plain text: a name, the rest of its line, further lines."""

    name: str
    rest: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line: its points in order of x, the quartile range where there is one, and what each says under the pointer.

    All text of a chart is plain; who draws it escapes what means something there.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    hover: tuple[Hover, ...]
    style: theme.Style
    dash: int = 0
    joined: bool = True


@dataclass(frozen=True)
class Beginning:
    """A place on the axis of x from which on something else holds, such as another kernel: a thin line and its name."""

    x: float
    name: str


@dataclass(frozen=True)
class LineChart:
    """Lines over a logarithmic axis of counts, or of time (`x_is_time`), or a linear one (`x_is_log` False).

    `y_is_time`: y is in seconds. `sources` is written under the figure.
    """

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    sources: str
    note: str = ""
    y_is_log: bool = True
    x_is_time: bool = False
    level: float | None = None
    diagonal: bool = False
    y_is_time: bool = False
    x_is_log: bool = True
    beginnings: tuple[Beginning, ...] = ()


@dataclass(frozen=True)
class PanelChart:
    """Line charts side by side, two in a row, with one legend: a line of one name looks alike in all of them.

    Each panel's own title says what it is of; its sources and note are the whole chart's.
    """

    title: str
    panels: tuple[LineChart, ...]
    sources: str
    note: str = ""

    @property
    def lines(self) -> tuple[Line, ...]:
        """Of each name the first line: what the legend holds."""
        found: dict[str, Line] = {}
        for panel in self.panels:
            for line in panel.lines:
                found.setdefault(line.name, line)
        return tuple(found.values())


@dataclass(frozen=True)
class Bars:
    """One bar in each group (nan: none): its quartile range, hover text, and limit of the roofs (nan: not known)."""

    name: str
    values: tuple[float, ...]
    colour: str
    hatch: str = ""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    limit: tuple[float, ...] = ()
    hover: tuple[Hover, ...] = ()


@dataclass(frozen=True)
class BarChart:
    """Groups of bars, each with a tick where the roofs put its limit. `unit`: `s` makes the axis one of times."""

    title: str
    x_title: str
    y_title: str
    groups: tuple[str, ...]
    bars: tuple[Bars, ...]
    sources: str
    note: str = ""
    unit: str = ""
    y_is_log: bool = True
    limit_name: str = ""

    def position(self, bars: int, group: int) -> float:
        """The position of that bar's middle on the axis, on which a group is one wide."""
        return group + (bars - (len(self.bars) - 1) / 2) * self.width

    @property
    def width(self) -> float:
        """The width of a bar, of which a tenth is left free."""
        return 0.84 / max(len(self.bars), 1)


@dataclass(frozen=True)
class HeatChart:
    """A table of values, `z[row][column]` (nan: not measured).

    Without a `unit` they are ratios, 1 in the middle of two colours; else quantities in one colour (`s`: seconds).
    """

    title: str
    x_title: str
    y_title: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    z: tuple[tuple[float, ...], ...]
    sources: str
    note: str = ""
    unit: str = ""

    def text(self, value: float) -> str:
        """What a cell says of its value; empty where nothing was measured."""
        if value != value:
            return ""
        return theme.quantity(value, self.unit).strip() if self.unit else theme.ratio(value)


Chart = LineChart | PanelChart | BarChart | HeatChart


def is_empty(chart: Chart) -> bool:
    """Whether there is nothing to draw; the chart's note then says why."""
    shown = (
        chart.lines
        if isinstance(chart, LineChart | PanelChart)
        else chart.groups
        if isinstance(chart, BarChart)
        else chart.z
    )
    return not shown


def foot(chart: Chart) -> str:
    """Where the numbers come from, and what makes some doubtful or is left out."""
    blank = isinstance(chart, HeatChart) and any(value != value for row in chart.z for value in row)
    parts = [chart.sources, chart.note if chart.sources else "", "blank: not measured" if blank else ""]
    return "; ".join(filter(None, parts))
