"""What both daemons run on."""
