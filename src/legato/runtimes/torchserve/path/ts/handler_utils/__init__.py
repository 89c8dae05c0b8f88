"""What handlers use."""
