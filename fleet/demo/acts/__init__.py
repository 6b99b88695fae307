"""The acts of the demo, in order: train, open, serve, roll_out, drift, kill."""
