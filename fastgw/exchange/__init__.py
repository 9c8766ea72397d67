"""One request's life: endpoint, phases, engine, relay, end."""
