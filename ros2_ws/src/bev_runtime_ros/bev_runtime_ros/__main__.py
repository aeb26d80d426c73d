"""`python -m bev_runtime_ros`."""

import sys

from bev_runtime_ros.main import main

sys.exit(main())
