"""`python -m refexp`: the command `refexp` without its script."""

from refexp.commands import main

if __name__ == "__main__":
    main()
