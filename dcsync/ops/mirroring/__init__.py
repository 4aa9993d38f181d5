"""A run brings extracts from Autodesk into the mirror: poll, plan, fetch, publish."""
