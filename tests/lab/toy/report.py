"""The figures of a report on doublings."""

from skiplab import figures


def figures_of(table, axes):
    return [(figures.overview(table), "Time of a doubling.")]
