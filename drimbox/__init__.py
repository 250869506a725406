"""The product: how an exam travels from the PACS and the RIS to the DMP and to partner DRIMBoxes.

entrypoints > bootstrap > settings > adapters > flow > domain; imports go downwards only. `simulators` is the
outside world and shares no message-building or parsing code with the rest. Start with `flow/__init__.py`.
"""
