"""The configuration: from a YAML file and the command line to settings."""
