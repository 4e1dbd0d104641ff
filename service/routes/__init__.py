"""The paths of the API, by object."""
