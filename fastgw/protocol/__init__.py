"""Protocols as machines that are handed bytes and hand back meaning: no sockets, no clock, no chance, no waiting."""
