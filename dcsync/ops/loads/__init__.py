"""Loads: tables in databases of the user, after each snapshot."""
