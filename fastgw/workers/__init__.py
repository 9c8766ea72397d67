"""One gateway in several processes: who starts them, what they say to each other, and what they come to together."""
