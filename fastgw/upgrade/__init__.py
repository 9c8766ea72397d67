"""One gateway takes the place of another, which ends what it has: what goes over, and what is told until then."""
