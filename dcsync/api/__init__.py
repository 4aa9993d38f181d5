"""HTTP: the Data Connector API under its quota, and the file store behind signed URLs."""
