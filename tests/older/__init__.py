"""A lab that an older version made, as it made it, and how."""
