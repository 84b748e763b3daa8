"""``python -m pigeonry.testing.cassandra FOLDER``: make the parts of the test cluster, once."""

from __future__ import annotations

import sys
from pathlib import Path

from pigeonry.testing.cassandra.parts import PartsMissing
from pigeonry.testing.cassandra.provision import parts

if __name__ == "__main__":
    try:
        parts(Path(sys.argv[1]))
    except PartsMissing as missing:
        # As tests/install-parts: what is missing is said here, and the tests that need it say so again.
        sys.stderr.write(f"NOT INSTALLED: {missing}\n")
