"""Single operators of LiteRT models: how long each takes on a device, and what a network of them would take."""
