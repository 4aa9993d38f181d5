"""HTTP: the Data Connector API within its rate limit, and the object storage behind signed URLs."""
