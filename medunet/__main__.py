"""`python -m medunet`: the same as the command `medunet`."""

from medunet.cli.main import run

if __name__ == "__main__":
    run()
