"""python -m qkvinspect"""

import sys

from qkvinspect.cli import main

if __name__ == "__main__":
    sys.exit(main())
