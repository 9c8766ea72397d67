"""What is known of each kind of engine: a file for each, and their list (``registry``)."""
