"""What handlers count with."""
