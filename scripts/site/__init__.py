"""Makes a site of the documentation that asks no other host for anything."""
