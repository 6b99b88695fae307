"""Keywords in sound: a spectrogram in front of the classifier, in one model file."""
