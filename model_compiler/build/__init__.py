"""From a source to model files.

adapting       a torch module as the converters want it
fronts         a model file in front of the model: read, tried, run over data sets
preprocessed   a request seen from both sides of its front and steps
prepared       source and data made to fit each other, and called as in the release
artifacts      one model file for every target that can be reached
targets        what a variant's name stands for; what a runtime's builder offers
litert, onnx   the builders
calibration    how a tensor's range is chosen
grid           new weights in a released LiteRT file, on the quantization grid that it has
quiet          the converters' own progress, kept off the terminal
"""
