"""`python -m refexp.data` is `refexp-data`."""

from refexp.datatools.cli import main

if __name__ == "__main__":
    main()
