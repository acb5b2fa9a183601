"""`python -m orchestrator` is the command `golf`, for entrypoints that have no console scripts on their path."""

from orchestrator.cli import main

main()
