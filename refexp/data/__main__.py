"""`python -m refexp.data` is `refexp-data`."""

import sys

from refexp.datatools.cli import main

if __name__ == "__main__":
    sys.exit(main())
