"""`python -m refexp`: the command `refexp` without its script."""

from refexp.command.group import main

if __name__ == "__main__":
    main()
