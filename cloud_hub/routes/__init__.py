"""The HTTP API, one module per noun. Each has a `router`, gathered in `cloud_hub.app`."""
