"""Android phones over ADB, measured with Google's ``benchmark_model``."""
