"""The compiled hot loop and what it records."""
