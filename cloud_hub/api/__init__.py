"""The hub over HTTP, for operators and devices: thin routes around the use cases of the other packages."""
