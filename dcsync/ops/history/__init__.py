"""The row history: every row of a table with the time from which and until which snapshots had it."""
