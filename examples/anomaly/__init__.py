"""Anomaly detection on a table, fitted in closed form: no training loop, no teacher."""
