"""What else one would use for the same work: each a file with a `running(model_url)` that yields a `System`.

The libraries they need are the dependency group `bench`; nothing here is imported by the service.
"""
