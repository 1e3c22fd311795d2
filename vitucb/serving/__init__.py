"""The agent taken away: deployed, saved, loaded."""
