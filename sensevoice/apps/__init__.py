"""The entry points: the page, the HTTP service and the command line."""
