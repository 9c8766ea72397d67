"""What people and machines see of a running gateway: logs now; reached from below only through protocols."""
