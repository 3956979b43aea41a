"""`python -m skiplab.cli`: the command where the console script is not installed."""

from skiplab.cli import main

main()
