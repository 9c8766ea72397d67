"""HTTP/2, for both ends: frames, field blocks, settings, budgets. Machines without I/O; imported when somebody speaks it."""
