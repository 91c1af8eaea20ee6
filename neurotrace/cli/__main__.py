"""`python -m neurotrace.cli`: the same as the command `neurotrace`."""

from neurotrace.cli.main import main

main()
