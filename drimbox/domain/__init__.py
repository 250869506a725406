"""Pure: values in, values out. No socket, file, database, clock, random UID or environment in here.

`now` and UIDs are arguments. Rules are tables with their clause; every violation is reported, not the first.
"""
