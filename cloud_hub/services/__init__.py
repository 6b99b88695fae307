"""The services that run beside the routes: their supervisor, periodic work, and leases among replicas."""
