"""MNIST: a small convolutional student distilled from a larger teacher. Needs the data; see `data.py`."""
