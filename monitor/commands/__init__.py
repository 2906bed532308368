"""The commands that speak with a running daemon. What is heavy is imported by the command that needs it."""
