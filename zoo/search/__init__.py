"""Which recipes to try: strategies propose them, a journal remembers what became of each."""
