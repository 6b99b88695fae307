"""Devices of the fleet: how they stand, and what an operator changes about them."""
