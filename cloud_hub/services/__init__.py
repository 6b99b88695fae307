"""What runs beside the routes: services, their supervisor, periodic work, and leases among replicas."""
