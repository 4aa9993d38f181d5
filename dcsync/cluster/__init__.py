"""The work of several hosts on one mirror, through a PostgreSQL database and procrastinate."""
