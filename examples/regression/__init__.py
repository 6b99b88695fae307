"""Regression: tool wear of torque and speed, with a teacher, by the kit's own loop."""
