"""What stands between a wire's JSON and a handler."""
