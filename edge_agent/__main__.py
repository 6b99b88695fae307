"""`python -m edge_agent` is the `edge-agent` command."""

from __future__ import annotations

import sys

from edge_agent.main import main

sys.exit(main())
