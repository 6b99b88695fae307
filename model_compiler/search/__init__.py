"""Other model files where the first ones will not do.

improving   variants that miss the gate: a search over quantization plans
plans       the fewest operators to keep in float; pure
keeping     the released quantization grid, kept where that costs no accuracy
"""
