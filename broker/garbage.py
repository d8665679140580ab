"""Python's cycle collector, in a process that is there for this service alone."""

import gc

# New objects before the collector looks at them. Python's own 700 has it look several times for each deliberation, and each time find
# nearly nothing: messages, tasks and futures are freed as they are let go of. A seventh of the service's time went there (measured).
# What cycles there are wait a little longer: a few MiB.
YOUNG = 10_000


def look_rarely() -> None:
    """Leave alone whatever exists by now, which is here to stay, and look at what is new less often. For the whole process."""
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)
