"""How the hub stands: its parts for health checks, the fleet for Prometheus."""
