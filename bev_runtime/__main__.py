"""`python -m bev_runtime` is `bev-runtime`."""

import sys

from bev_runtime.cli import main

sys.exit(main())
