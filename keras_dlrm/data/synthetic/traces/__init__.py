"""Click logs whose ids repeat as in a recorded trace."""
