"""Which engine a request goes to, and what comes of it, on made-up traces: as discrete events, and over HTTP."""
