"""`python -m model_compiler` is the `model-compiler` command."""

from model_compiler.main import main

main()
