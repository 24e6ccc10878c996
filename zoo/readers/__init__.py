"""Readers: what people have, as datasets; a module per kind."""
