"""Click logs whose ids repeat with a given locality (stack distances)."""
