"""Models as plain pytrees, and their loss."""
