"""The control plane: a listener of its own, off the data path, for operators and their tools. Imported only after the data
plane listens: its library takes longer to import than a gateway to start."""
