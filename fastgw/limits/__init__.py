"""The machines that limit: meters, ledgers, queues, breakers, budgets. Sans-I/O: time and chance are arguments."""
