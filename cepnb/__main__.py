"""`python -m cepnb`."""

import sys

from cepnb.cli import main

if __name__ == "__main__":
    sys.exit(main())
