"""The outside world for demo, tests and rehearsals: DMP, Pro Santé Connect, ANS and BetterStack lists, peers.

Strict, one knob per fault, on real sockets. Shares no message-building or parsing code with the product:
nothing of `drimbox.domain`, `drimbox.flow` or `drimbox.adapters` may be imported here.
"""
