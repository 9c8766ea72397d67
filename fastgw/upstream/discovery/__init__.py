"""Engines that are found: by a name in DNS, or in a file; a source for each way, and who makes the fleet follow them."""
