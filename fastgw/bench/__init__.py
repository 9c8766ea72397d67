"""``fastgw bench``: load on any OpenAI-compatible server, measured where its bytes arrive, and checked.

It measures gateways, this one among others: of the house it uses what reads HTTP/1 (``protocol``), and judges events by itself.
"""
