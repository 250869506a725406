"""Processes and wires: HTTP, DIMSE, MLLP, command line, worker. Each translates one wire to one `flow` call."""
