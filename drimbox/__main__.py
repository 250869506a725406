"""`python -m drimbox` is the `drimbox` command."""

from drimbox.entrypoints.cli import main

if __name__ == "__main__":
    main()
