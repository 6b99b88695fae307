"""Who this device is: its key, its enrolment, and its authenticated calls to the hub."""
