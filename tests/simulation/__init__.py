"""A simulation: the real handlers of several processes on a modelled broker and a virtual clock, whatever dies.

One seed is one history: who asks what, how the agents fare, what is lost, late, doubled, paused or killed, and when. Nothing in it
waits or opens a socket, so a hundred thousand of them run in minutes and each runs again to the letter from its seed.

    python -m tests.simulation --histories 100000      what `make simulate` does
    python -m tests.simulation --seed 4711 --trace     one history, told step by step
"""
