"""The door of snapcycle: the HTTP API, the command line and the Python client."""
