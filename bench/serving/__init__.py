"""What a request costs: the running server, timed side by side with its own no-op endpoint in one run.

Rounds of all scenarios are interleaved, because shared machines drift: compare the ratios, not the milliseconds.
"""
