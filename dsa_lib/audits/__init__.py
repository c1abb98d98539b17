"""What a distance does not see (notebooks 11 to 14): conditions obeyed, vessels plausible, memorisation, utility."""
