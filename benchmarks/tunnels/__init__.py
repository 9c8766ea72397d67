"""What a tunnel costs beside HTTP to the same engine."""
