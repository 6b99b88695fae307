"""The state of the hub: its parts for health checks, the fleet for Prometheus."""
