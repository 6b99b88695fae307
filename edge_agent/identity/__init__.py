"""The device's identity: its key, its enrolment, and its authenticated calls to the hub."""
