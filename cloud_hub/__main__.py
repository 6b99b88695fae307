"""`python -m cloud_hub`."""

from __future__ import annotations

from cloud_hub.main import main

main()
