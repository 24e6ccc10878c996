"""Decides which variant to run: a light model of when each variant is right, and one pure rule."""
