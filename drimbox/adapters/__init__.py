"""One door per outside thing: database, ledger, documents, DMP, signature keys, Pro Santé Connect, logs.

The only files of the product (with the edges of the rooms) that touch the outside. They decide nothing.
"""
