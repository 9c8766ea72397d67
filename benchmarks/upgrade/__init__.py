"""A gateway that another process takes the place of, under load."""
