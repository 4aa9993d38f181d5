"""`dcsync doctor`: checks of the configuration, this machine, the mirror and the API."""
