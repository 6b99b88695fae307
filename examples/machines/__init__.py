"""Predictive maintenance: a small dense network on a table with 3 % positives. Needs the data; see `data.py`."""
