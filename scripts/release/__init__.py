"""Makes what a release is: the files, their names and their sums; by targets of the Makefile, here as in the workflow."""
