"""From `init` to a hub that serves: making one, opening one, its lock, its ports, its server."""
