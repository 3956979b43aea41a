"""`python -m skiplab`: the command line, where no script of that name is on the path."""

from skiplab.cli import main

main()
