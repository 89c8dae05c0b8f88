"""What handlers' own tests import."""
