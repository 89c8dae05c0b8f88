"""``legato demo``: a real model, real speech, many sequences at once, and a crash in between."""
