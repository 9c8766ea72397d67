"""What outlives the process: keys, daily usage and the audit of changes, in one SQLite file under the state folder."""
