"""`python -m medunet`: the same as the command `medunet`."""

from medunet.cli.main import main

if __name__ == "__main__":
    main()
