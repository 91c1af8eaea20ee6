"""`python -m neurotrace.cli`: the same as the command `neurotrace`."""

from neurotrace.cli.main import main

if __name__ == "__main__":  # not in the processes of --workers, which import this file
    main()
