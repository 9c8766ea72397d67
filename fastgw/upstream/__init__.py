"""Engines: where they are, which of them are well, which models they serve, and the connections kept warm to them."""
