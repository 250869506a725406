"""The verbs of the product: receive, reconcile, publish, authorise, trace.

Transactions open here and nowhere else; they roll back unless committed; no network call while one is open.
`trace.py` is the only writer of states and events. Reaches the outside through the protocols of `ports.py`.
"""
