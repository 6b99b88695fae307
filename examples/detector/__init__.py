"""A detector of bright shapes on small generated images, with a loss of its own."""
