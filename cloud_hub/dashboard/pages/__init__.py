"""The pages: one module each, with its routes. They show; what people do is in `acts`."""
