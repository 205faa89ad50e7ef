"""`python -m flan_jax` is the same as `flan-jax`."""

from __future__ import annotations

import sys

from flan_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
