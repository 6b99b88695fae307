"""The dashboard: one server-rendered page about devices, releases, rollouts, drift and changes."""
