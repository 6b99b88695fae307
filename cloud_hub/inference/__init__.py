"""Inference in the cloud: the Open Inference Protocol over releases' cloud variants."""
