"""Reads the request and its files from disk: nothing is built here, nothing is run.

request          what is asked of the compiler
dataset          calibration and validation sets
sources          where a model comes from: torch, an exported program, ONNX
naming           how inputs and outputs are called, and whether applications can rely on it
ports            the inputs and outputs that a model file says it has
precision        what a model file computes in
preprocessing    what lies before a model file: a front, and steps
deferral_target  how many answers may be wrong, or asked of the cloud
release_folder   a release directory, read
former_release   the release that devices come from
existing_model   what a release of an existing model keeps
"""
