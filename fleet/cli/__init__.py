"""The `fleet` command: one module per noun; `main` puts them together."""
