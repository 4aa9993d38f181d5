"""One run: poll, plan, fetch, publish. What brings an extract from Autodesk into the mirror."""
