"""`python -m p2pfl`: the same as the `p2pfl` command."""

import sys

try:
    from p2pfl.cli import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
