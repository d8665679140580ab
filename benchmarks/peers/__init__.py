"""Other libraries for the same work. Each `NAME.py` has a `running(model_url)` that yields a `System`.

They need the dependency group `bench`. The service imports nothing from here.
"""
